// y = scale * x
// One invocation does it all. Bytes moved: 12.
struct Params { count: u32 }

@group(0) @binding(0) var<storage, read> x: array<f32>; // [1]
@group(0) @binding(1) var<storage, read> state: array<f32>; // [6], the scale first
@group(0) @binding(2) var<storage, read_write> y: array<f32>; // [1]
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
    if id.x < params.count {
        y[0] = state[0] * x[0];
    }
}
