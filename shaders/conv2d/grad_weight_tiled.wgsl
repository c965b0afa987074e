// partial[s, q, b, a] = sum over the pixels p of part s of coarse[p, a] * fine[STRIDE * p + q - PADDING, b].
// TURNED, it is partial[s, q, a, b]: the weight gradient of a transposed convolution, whose input is the coarse side.
// Part s is the rows s * rows_per_part onwards of all coarse images; conv2d/reduce_partials adds the parts.
// A workgroup owns TILE b x TILE a at one q, an invocation CHANNELS x CHANNELS of them, in registers: besides these it needs
// 2 * CHANNELS for what it multiplies, and what it loads for the next turn.
// In each turn DEPTH pixels of both pass through workgroup memory; all loads take four channels. Channels must be multiples of 4.
// Bytes moved per workgroup and turn: 8 * DEPTH * TILE, 32 FLOP for each in tiles of 128. As many bytes of workgroup memory,
// 8 KiB there.
const KERNEL_HEIGHT = 3u;
const KERNEL_WIDTH = 3u;
const STRIDE_Y = 1u;
const STRIDE_X = 1u;
const PADDING_Y = 0u;
const PADDING_X = 0u;
const TURNED = 0u;
const TILE = 128u;
const DEPTH = 8u;
const CHANNELS = 8u;

const LANES = TILE / CHANNELS;
const INVOCATIONS = LANES * LANES;
const BLOCKS = CHANNELS / 4u; // of four channels that an invocation owns on either side, LANES of them apart
const TILE_QUADS = TILE / 4u;
const SHARERS = INVOCATIONS / DEPTH; // invocations that load one pixel
const LOADS = TILE_QUADS / SHARERS;
alias Stored = f32; // how activations are stored; f16 halves the bytes that they move
alias Stored4 = vec4<Stored>;

struct Params {
    batch: u32,
    fine_height: u32,
    fine_width: u32,
    fine_channels: u32,
    coarse_height: u32,
    coarse_width: u32,
    coarse_channels: u32,
    rows_per_part: u32,
    first_part: u32, // where parts are stored from on
    first_workgroup: u32,
}

@group(0) @binding(0) var<storage, read> fine: array<Stored4>; // [batch, fine_height, fine_width, fine_channels / 4]
@group(0) @binding(1) var<storage, read> coarse: array<Stored4>; // [batch, coarse_height, coarse_width, coarse_channels / 4]
@group(0) @binding(2) var<storage, read_write> partial: array<vec4f>; // [parts, elements of the weight / 4]
@group(0) @binding(3) var<uniform> params: Params;

// By pixel, then four channels at once.
var<workgroup> fine_tile: array<array<vec4f, TILE_QUADS>, DEPTH>;
var<workgroup> coarse_tile: array<array<vec4f, TILE_QUADS>, DEPTH>;

@compute @workgroup_size(INVOCATIONS)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) invocation: u32,
) {
    let fine_quads = params.fine_channels / 4u;
    let coarse_quads = params.coarse_channels / 4u;
    let coarse_tiles = (coarse_quads + TILE_QUADS - 1u) / TILE_QUADS;
    let fine_tiles = (fine_quads + TILE_QUADS - 1u) / TILE_QUADS;
    // Workgroups that read the same part are neighbours, so that it is still in a cache.
    let index = params.first_workgroup + group.x + group.y * groups.x;
    let first_coarse = index % coarse_tiles * TILE_QUADS;
    let first_fine = index / coarse_tiles % fine_tiles * TILE_QUADS;
    let q = index / coarse_tiles / fine_tiles % (KERNEL_HEIGHT * KERNEL_WIDTH);
    let part = index / coarse_tiles / fine_tiles / (KERNEL_HEIGHT * KERNEL_WIDTH);
    let lane = invocation % LANES;
    let row = invocation / LANES;
    let rows = params.batch * params.coarse_height;
    let end = min((part + 1u) * params.rows_per_part, rows) * params.coarse_width;
    let start = min(part * params.rows_per_part * params.coarse_width, end);

    // The pixel that this invocation brings into workgroup memory, and its place in the coarse image.
    let slot = invocation / SHARERS;
    var pixel = start + slot;
    var image = pixel / params.coarse_width / params.coarse_height;
    var y = pixel / params.coarse_width % params.coarse_height;
    var x = pixel % params.coarse_width;

    var sum: array<vec4f, CHANNELS * BLOCKS>;
    let turns = (end - start + DEPTH - 1u) / DEPTH;
    // The loads of a turn are on their way while the tiles of the turn before are multiplied.
    var loaded_fine: array<vec4f, LOADS>;
    var loaded_coarse: array<vec4f, LOADS>;
    for (var turn = 0u; turn <= turns; turn++) {
        if turn < turns {
            // What lies before the image has wrapped around to large numbers.
            let fine_y = y * STRIDE_Y + q / KERNEL_WIDTH - PADDING_Y;
            let fine_x = x * STRIDE_X + q % KERNEL_WIDTH - PADDING_X;
            let inside = (pixel < end) & (fine_y < params.fine_height) & (fine_x < params.fine_width);
            let line = min(image, params.batch - 1u) * params.fine_height + min(fine_y, params.fine_height - 1u);
            let fine_at = (line * params.fine_width + min(fine_x, params.fine_width - 1u)) * fine_quads;
            let coarse_at = min(pixel, end - 1u) * coarse_quads;
            for (var l = 0u; l < LOADS; l++) { // unroll
                // A channel past the last is computed as that one and not stored.
                let quad = invocation % SHARERS + l * SHARERS;
                let fine_value = vec4f(fine[fine_at + min(first_fine + quad, fine_quads - 1u)]);
                let coarse_value = vec4f(coarse[coarse_at + min(first_coarse + quad, coarse_quads - 1u)]);
                loaded_fine[l] = select(vec4f(), fine_value, inside);
                loaded_coarse[l] = select(vec4f(), coarse_value, inside);
            }
            pixel += DEPTH;
            x += DEPTH;
            while x >= params.coarse_width {
                x -= params.coarse_width;
                y += 1u;
                if y == params.coarse_height {
                    y = 0u;
                    image += 1u;
                }
            }
        }
        if turn > 0u {
            for (var p = 0u; p < DEPTH; p++) { // unroll
                var c: array<vec4f, BLOCKS>;
                for (var a = 0u; a < BLOCKS; a++) { // unroll
                    c[a] = coarse_tile[p][a * LANES + lane];
                }
                for (var b = 0u; b < BLOCKS; b++) { // unroll
                    let f = fine_tile[p][b * LANES + row];
                    for (var k = 0u; k < 4u; k++) { // unroll
                        for (var a = 0u; a < BLOCKS; a++) { // unroll
                            sum[(4u * b + k) * BLOCKS + a] = fma(vec4f(f[k]), c[a], sum[(4u * b + k) * BLOCKS + a]);
                        }
                    }
                }
            }
        }
        workgroupBarrier(); // All have read the tiles of the turn before: they may be overwritten.
        if turn < turns {
            for (var l = 0u; l < LOADS; l++) { // unroll
                fine_tile[slot][invocation % SHARERS + l * SHARERS] = loaded_fine[l];
                coarse_tile[slot][invocation % SHARERS + l * SHARERS] = loaded_coarse[l];
            }
        }
        workgroupBarrier(); // The tiles are complete: they may be read.
    }
    let first = ((params.first_part + part) * KERNEL_HEIGHT * KERNEL_WIDTH + q) * params.fine_channels * coarse_quads;
    for (var b = 0u; b < BLOCKS; b++) { // unroll
        for (var a = 0u; a < BLOCKS; a++) { // unroll
            let fine_quad = first_fine + b * LANES + row;
            let coarse_quad = first_coarse + a * LANES + lane;
            var block = mat4x4f(
                sum[4u * b * BLOCKS + a],
                sum[(4u * b + 1u) * BLOCKS + a],
                sum[(4u * b + 2u) * BLOCKS + a],
                sum[(4u * b + 3u) * BLOCKS + a],
            );
            if TURNED == 1u {
                block = transpose(block);
            }
            for (var k = 0u; k < 4u; k++) { // unroll
                if part * params.rows_per_part < rows && fine_quad < fine_quads && coarse_quad < coarse_quads {
                    let stored = (4u * fine_quad + k) * coarse_quads + coarse_quad;
                    let turned = (4u * coarse_quad + k) * fine_quads + fine_quad;
                    partial[first + select(stored, turned, TURNED == 1u)] = block[k];
                }
            }
        }
    }
}
