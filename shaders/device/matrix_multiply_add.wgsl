// y[w] = sum over k < CHAINS of STEPS * turns times the product of x[k] and x[CHAINS], matrices of SIDE x SIDE
// What a device's matrix units can do at most: CHAINS independent sums in registers, nothing loaded or stored on the way. Their
// first factors differ, so no compiler can put two together.
// A workgroup is one subgroup of LANES, and owns a matrix. Bytes moved per workgroup: 2 * SIDE * SIDE * (CHAINS + 3).
enable f16;
enable wgpu_cooperative_matrix;
const CHAINS = 8u;
const STEPS = 16u;
const LANES = 8u;
const SIDE = 8u;
alias Stored = f32; // f16, as matrices are
alias Left = coop_mat8x8<Stored, A>; // SIDE x SIDE, all three
alias Right = coop_mat8x8<Stored, B>;
alias Sum = coop_mat8x8<f32, C>;

struct Params { workgroups: u32, turns: u32 }

@group(0) @binding(0) var<storage, read> x: array<Stored>; // [CHAINS + 1, SIDE, SIDE]
@group(0) @binding(1) var<storage, read_write> y: array<f32>; // [workgroups, SIDE, SIDE]
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u) {
    let index = group.x + group.y * groups.x;
    // All lanes leave, or none.
    if index >= params.workgroups {
        return;
    }
    let right = coopLoadT<Right>(&x[CHAINS * SIDE * SIDE], SIDE);
    var left: array<Left, CHAINS>;
    var sum: array<Sum, CHAINS>;
    for (var k = 0u; k < CHAINS; k++) { // unroll
        left[k] = coopLoadT<Left>(&x[k * SIDE * SIDE], SIDE);
    }
    for (var turn = 0u; turn < params.turns; turn++) {
        for (var step = 0u; step < STEPS; step++) { // unroll
            for (var k = 0u; k < CHAINS; k++) { // unroll
                sum[k] = coopMultiplyAdd(left[k], right, sum[k]);
            }
        }
    }
    var total: Sum;
    for (var k = 0u; k < CHAINS; k++) { // unroll
        total = total + sum[k];
    }
    coopStoreT(total, &y[index * SIDE * SIDE], SIDE);
}
