// y[i] = sum over k < CHAINS of z_k after STEPS * turns steps z <- z * z + x[i], from z_k = -k / 32
// What a device can do at most: CHAINS independent values in registers, nothing loaded or stored on the way. No compiler can put
// a square together with the next; the values do not grow, and for x near -3/4 they do not come to rest.
// One invocation owns one element, or two of f16, which some devices multiply at once; a workgroup has 64. Bytes moved: each of x
// and y once.
const CHAINS = 12u;
const STEPS = 16u;

alias Stored = f32;
alias Number = Stored;

struct Params { count: u32, turns: u32 }

@group(0) @binding(0) var<storage, read> x: array<Number>; // [count]
@group(0) @binding(1) var<storage, read_write> y: array<Number>; // [count]
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = (group.x + group.y * groups.x) * 64u + lane;
    if i >= params.count {
        return;
    }
    let c = x[i];
    var z: array<Number, CHAINS>;
    for (var k = 0u; k < CHAINS; k++) { // unroll
        z[k] = Number(Stored(f32(k) * -0.03125));
    }
    for (var turn = 0u; turn < params.turns; turn++) {
        for (var step = 0u; step < STEPS; step++) { // unroll
            for (var k = 0u; k < CHAINS; k++) { // unroll
                z[k] = fma(z[k], z[k], c);
            }
        }
    }
    var sum = Number();
    for (var k = 0u; k < CHAINS; k++) { // unroll
        sum += z[k];
    }
    y[i] = sum;
}
