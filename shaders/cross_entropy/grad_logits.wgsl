// grad_logits[p, k] = grad_output * scale * w[p] * (exp(x[p, k] - m) / sum over j of exp(x[p, j] - m) - [k = label]),
// m = the largest x[p, j]; 0 where the label of p does not count
// One invocation owns one pixel, one workgroup 64 neighbours a turn. Bytes moved: 8 per score and per pixel.
struct Params { count: u32, classes: u32, ignore_label: u32 }

@group(0) @binding(0) var<storage, read> logits: array<f32>; // [count, classes]
@group(0) @binding(1) var<storage, read> labels: array<u32>; // [count]
@group(0) @binding(2) var<storage, read> weights: array<f32>; // [count]
@group(0) @binding(3) var<storage, read> scale: array<f32>; // [1]
@group(0) @binding(4) var<storage, read> grad_output: array<f32>; // [1]
@group(0) @binding(5) var<storage, read_write> grad_logits: array<f32>; // [count, classes]
@group(0) @binding(6) var<uniform> params: Params; // count: pixels

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
        let first = i * params.classes;
        let label = labels[i];
        if label >= params.classes || label == params.ignore_label {
            for (var k = 0u; k < params.classes; k++) {
                grad_logits[first + k] = 0.0;
            }
            continue;
        }
        var largest = logits[first];
        for (var k = 1u; k < params.classes; k++) {
            largest = max(largest, logits[first + k]);
        }
        var exponentials = 0.0;
        for (var k = 0u; k < params.classes; k++) {
            exponentials += exp(logits[first + k] - largest);
        }
        let weight = scale[0] * grad_output[0] * weights[i];
        for (var k = 0u; k < params.classes; k++) {
            let probability = exp(logits[first + k] - largest) / exponentials;
            grad_logits[first + k] = weight * (probability - select(0.0, 1.0, k == label));
        }
    }
}
