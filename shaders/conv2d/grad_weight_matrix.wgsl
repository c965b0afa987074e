// partial[s, q, c, o] = sum over positions i of part s of rows[i + qy * pitch_width + qx, c] * grads[i, o], of which
// conv2d/matrix_rows laid out both, with zeros where a pixel of either image meets none of the other.
// A workgroup is one subgroup of LANES, and owns ROWS x COLUMNS matrices of SIDE x SIDE sums at one element q, which lie in its
// registers; the first of each product is a matrix of positions x channels, turned by loading it by columns.
// All are loaded from storage that this kernel only reads, as conv2d/matrix_product says.
// Bytes moved per workgroup and SIDE positions: 2 * SIDE * SIDE * (ROWS + COLUMNS).
enable f16;
enable wgpu_cooperative_matrix;
const KERNEL_HEIGHT = 3u;
const KERNEL_WIDTH = 3u;
const LANES = 8u;
const SIDE = 8u;
const ROWS = 2u;
const COLUMNS = 2u;
const TAPS = KERNEL_HEIGHT * KERNEL_WIDTH;
alias Left = coop_mat8x8<f16, A>; // SIDE x SIDE, all three
alias Right = coop_mat8x8<f16, B>;
alias Sum = coop_mat8x8<f32, C>;

struct Params {
    pitch_width: u32,
    in_channels: u32,
    out_channels: u32,
    first_part: u32, // the one that rows and grads begin with
    parts: u32, // that they have
    positions_per_part: u32, // a multiple of SIDE
    first_workgroup: u32,
}

@group(0) @binding(0) var<storage, read> rows: array<f16>; // [parts * positions_per_part and those that they meet, in_channels]
@group(0) @binding(1) var<storage, read> grads: array<f16>; // [parts * positions_per_part, out_channels]
@group(0) @binding(2) var<storage, read_write> partial: array<f32>; // [all parts, TAPS, in_channels, out_channels]
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u) {
    let in_channels = params.in_channels;
    let out_channels = params.out_channels;
    let in_blocks = in_channels / (ROWS * SIDE);
    let out_blocks = out_channels / (COLUMNS * SIDE);
    let index = params.first_workgroup + group.x + group.y * groups.x;
    let first_out = index % out_blocks * (COLUMNS * SIDE);
    let first_in = index / out_blocks % in_blocks * (ROWS * SIDE);
    let q = index / out_blocks / in_blocks % TAPS;
    let part = index / out_blocks / in_blocks / TAPS;
    // All lanes leave, or none.
    if part >= params.parts {
        return;
    }
    let shift = q / KERNEL_WIDTH * params.pitch_width + q % KERNEL_WIDTH;
    let first_position = part * params.positions_per_part;
    var sum: array<Sum, ROWS * COLUMNS>;
    for (var i = first_position; i < first_position + params.positions_per_part; i += SIDE) {
        var left: array<Left, ROWS>;
        for (var c = 0u; c < ROWS; c++) { // unroll
            left[c] = coopLoad<Left>(&rows[(i + shift) * in_channels + first_in + c * SIDE], in_channels);
        }
        for (var o = 0u; o < COLUMNS; o++) { // unroll
            let right = coopLoadT<Right>(&grads[i * out_channels + first_out + o * SIDE], out_channels);
            for (var c = 0u; c < ROWS; c++) { // unroll
                sum[c * COLUMNS + o] = coopMultiplyAdd(left[c], right, sum[c * COLUMNS + o]);
            }
        }
    }
    let first = ((params.first_part + part) * TAPS + q) * in_channels;
    for (var c = 0u; c < ROWS; c++) { // unroll
        for (var o = 0u; o < COLUMNS; o++) { // unroll
            let at = (first + first_in + c * SIDE) * out_channels + first_out + o * SIDE;
            coopStoreT(sum[c * COLUMNS + o], &partial[at], out_channels);
        }
    }
}
