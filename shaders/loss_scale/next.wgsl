// Where gradients overflowed: scale = max(least, scale / 2), good = 0, overflows += 1, skipped = 1, or 2 if it was the least.
// Else: good += 1, which doubles the scale, up to the largest, whenever it reaches patience; skipped = 0; and each of Adam's
// corrections becomes beta * correction + (1 - beta).
// One invocation does it all. Bytes moved: 52.
struct Params { count: u32, least: f32, largest: f32, patience: f32, beta1: f32, beta2: f32 }

@group(0) @binding(0) var<storage, read> state: array<f32>; // [6]: scale, good, overflows, skipped, correction1, correction2
@group(0) @binding(1) var<storage, read> found: array<f32>; // [1]: gradients that are infinite or NaN
@group(0) @binding(2) var<storage, read_write> next: array<f32>; // [6]
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
    if id.x >= params.count {
        return;
    }
    var scale = state[0];
    var good = 0.0;
    var overflows = state[2];
    var skipped = 0.0;
    var correction1 = state[4];
    var correction2 = state[5];
    if found[0] > 0.0 {
        skipped = select(1.0, 2.0, scale <= params.least);
        scale = max(params.least, scale * 0.5);
        overflows += 1.0;
    } else {
        good = state[1] + 1.0;
        if good >= params.patience {
            scale = min(params.largest, scale * 2.0);
            good = 0.0;
        }
        correction1 = params.beta1 * correction1 + (1.0 - params.beta1);
        correction2 = params.beta2 * correction2 + (1.0 - params.beta2);
    }
    next[0] = scale;
    next[1] = good;
    next[2] = overflows;
    next[3] = skipped;
    next[4] = correction1;
    next[5] = correction2;
}
