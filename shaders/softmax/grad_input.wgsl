// grad_input[k] = y[k] * (grad_output[k] - sum over j of y[j] * grad_output[j]), over the channels of a pixel
// One invocation owns one pixel, one workgroup 64 neighbours a turn. Bytes moved: 12 per element.
struct Params { count: u32, channels: u32 }

@group(0) @binding(0) var<storage, read> y: array<f32>; // [count, channels]
@group(0) @binding(1) var<storage, read> grad_output: array<f32>; // [count, channels]
@group(0) @binding(2) var<storage, read_write> grad_input: array<f32>; // [count, channels]
@group(0) @binding(3) var<uniform> params: Params; // count: pixels

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let turns = (params.count - 1u) / (64u * groups.x * groups.y) + 1u;
    for (var turn = 0u; turn < turns; turn++) {
        let i = ((group.x + group.y * groups.x) * turns + turn) * 64u + lane;
        if i >= params.count {
            return;
        }
        let first = i * params.channels;
        var mean = 0.0;
        for (var k = first; k < first + params.channels; k++) {
            mean += y[k] * grad_output[k];
        }
        for (var k = first; k < first + params.channels; k++) {
            grad_input[k] = y[k] * (grad_output[k] - mean);
        }
    }
}
