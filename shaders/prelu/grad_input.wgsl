// grad_input[p, c] = grad_output[p, c] where x[p, c] > 0, else slope[c] * grad_output[p, c]
// One invocation owns one element, one workgroup 64 neighbours a turn. Bytes moved: 12 per element.
alias Stored = f32; // how activations are stored; f16 halves the bytes that they move

struct Params { count: u32, slopes: u32 }

@group(0) @binding(0) var<storage, read> x: array<Stored>; // [pixels, channels]
@group(0) @binding(1) var<storage, read> slope: array<f32>; // [slopes], which is channels or 1
@group(0) @binding(2) var<storage, read> grad_output: array<Stored>; // [pixels, channels]
@group(0) @binding(3) var<storage, read_write> grad_input: array<Stored>; // [pixels, channels]
@group(0) @binding(4) var<uniform> params: Params; // count: elements

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
        let grad = f32(grad_output[i]);
        grad_input[i] = Stored(select(slope[i % params.slopes] * grad, grad, f32(x[i]) > 0.0));
    }
}
