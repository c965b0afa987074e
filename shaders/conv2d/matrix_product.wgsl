// products[i, r] = sum over q, c of rows[i + qy * pitch_width + qx, c] * weight[q, c, r]; TURNED, of weight[last - q, r, c].
// A workgroup is one subgroup of LANES, and owns ROWS x COLUMNS matrices of SIDE x SIDE products, which lie in its registers.
// All are loaded from storage that this kernel only reads, where conv2d/matrix_rows left no edges: naga says nothing to a driver
// of the order in which a subgroup writes and reads workgroup memory as soon as a kernel has such matrices.
// Bytes moved per workgroup, element q and SIDE channels c: 2 * SIDE * SIDE * (ROWS + COLUMNS).
enable f16;
enable wgpu_cooperative_matrix;
const KERNEL_HEIGHT = 3u;
const KERNEL_WIDTH = 3u;
const TURNED = 0u;
const LANES = 8u;
const SIDE = 8u;
const ROWS = 2u;
const COLUMNS = 2u;
alias Left = coop_mat8x8<f16, A>; // SIDE x SIDE, all three
alias Right = coop_mat8x8<f16, B>;
alias Sum = coop_mat8x8<f32, C>;

struct Params {
    positions: u32,
    pitch_width: u32,
    source_channels: u32,
    channels: u32,
    first_workgroup: u32,
}

@group(0) @binding(0) var<storage, read> rows: array<f16>; // [positions and those that they meet, source_channels]
@group(0) @binding(1) var<storage, read> weight: array<f16>; // [KERNEL_HEIGHT, KERNEL_WIDTH, ..., channels]
@group(0) @binding(2) var<storage, read_write> products: array<f32>; // [positions, channels]
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u) {
    let source_channels = params.source_channels;
    let channels = params.channels;
    let blocks = channels / (COLUMNS * SIDE);
    let index = params.first_workgroup + group.x + group.y * groups.x;
    let first_channel = index % blocks * (COLUMNS * SIDE);
    let first_position = index / blocks * (ROWS * SIDE);
    // All lanes leave, or none.
    if first_position >= params.positions {
        return;
    }
    var sum: array<Sum, ROWS * COLUMNS>;
    for (var qy = 0u; qy < KERNEL_HEIGHT; qy++) {
        for (var qx = 0u; qx < KERNEL_WIDTH; qx++) {
            let first_row = first_position + qy * params.pitch_width + qx;
            let q = qy * KERNEL_WIDTH + qx;
            let turned_q = KERNEL_HEIGHT * KERNEL_WIDTH - 1u - q;
            for (var c = 0u; c < source_channels; c += SIDE) {
                var left: array<Left, ROWS>;
                for (var i = 0u; i < ROWS; i++) { // unroll
                    left[i] = coopLoadT<Left>(&rows[(first_row + i * SIDE) * source_channels + c], source_channels);
                }
                for (var k = 0u; k < COLUMNS; k++) { // unroll
                    let r = first_channel + k * SIDE;
                    var right: Right;
                    if TURNED == 1u {
                        right = coopLoad<Right>(&weight[(turned_q * channels + r) * source_channels + c], source_channels);
                    } else {
                        right = coopLoadT<Right>(&weight[(q * source_channels + c) * channels + r], channels);
                    }
                    for (var i = 0u; i < ROWS; i++) { // unroll
                        sum[i * COLUMNS + k] = coopMultiplyAdd(left[i], right, sum[i * COLUMNS + k]);
                    }
                }
            }
        }
    }
    for (var i = 0u; i < ROWS; i++) { // unroll
        for (var k = 0u; k < COLUMNS; k++) { // unroll
            let at = (first_position + i * SIDE) * channels + first_channel + k * SIDE;
            coopStoreT(sum[i * COLUMNS + k], &products[at], channels);
        }
    }
}
