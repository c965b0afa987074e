// total[e] = sum over the parts s, in order, of partial[s, e].
// One invocation owns one element, a workgroup 64 of them. Bytes moved per element: 4 * parts + 4.
struct Params {
    elements: u32,
    parts: u32,
}

@group(0) @binding(0) var<storage, read> partial: array<f32>; // [parts, elements]
@group(0) @binding(1) var<storage, read_write> total: array<f32>; // [elements]
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let e = (group.x + group.y * groups.x) * 64u + lane;
    if e < params.elements {
        var sum = 0.0;
        for (var s = 0u; s < params.parts; s++) {
            sum += partial[s * params.elements + e];
        }
        total[e] = sum;
    }
}
