// result[n, s, r] = bias[r] + sum over q, c of weight[q, c, r] * source[n, p, c], where p and s meet at q:
// conv2d/correlation_subgroup says where, and what it is to be coarse or turned.
// A workgroup owns TILE_PIXELS positions of a phase x TILE_CHANNELS channels, an invocation PIXELS x CHANNELS, in registers;
// more of these for 4 * CHANNELS of the weight, 4 of source, what it loads for the next turn, and addresses.
// In each turn a tile of DEPTH source channels, at one element q, passes through workgroup memory. All loads take four channels,
// of which source and result must have multiples.
// Bytes moved per workgroup and turn: 4 * DEPTH * (TILE_PIXELS + TILE_CHANNELS), of 128 x 128 one for 32 FLOP; workgroup memory
// has room for as many, 8 KiB of 128 x 128, and 16 * DEPTH more.
const KERNEL_HEIGHT = 3u;
const KERNEL_WIDTH = 3u;
const STRIDE_Y = 1u;
const STRIDE_X = 1u;
const PADDING_Y = 0u;
const PADDING_X = 0u;
const COARSE = 0u;
const TURNED = 0u;
const OWN_WEIGHTS = 0u; // 1: each image has a weight of its own, and TILE_PIXELS divides its pixels
const BIAS = 1u; // 0: there is none, and any buffer stands in its place
const RELU = 0u; // 1: what is below 0 becomes 0
const MASK = 0u; // 1: where mask is not above 0, the result is; 0: any buffer stands in its place
const TILE_PIXELS = 128u;
const TILE_CHANNELS = 128u;
const DEPTH = 8u;
const PIXELS = 8u;
const CHANNELS = 8u;

const LANES = TILE_CHANNELS / CHANNELS; // invocations side by side, which share pixels
const ROWS = TILE_PIXELS / PIXELS; // invocations below each other, which share channels
const INVOCATIONS = LANES * ROWS;
const QUADS = DEPTH / 4u; // of channels of source in a tile
const BLOCKS = CHANNELS / 4u; // of four channels of the result that an invocation owns, LANES of them apart
const TILE_QUADS = TILE_CHANNELS / 4u;
const SOURCE_LOADS = TILE_PIXELS * QUADS / INVOCATIONS;
const WEIGHT_LOADS = DEPTH * TILE_QUADS / INVOCATIONS;

// Along each axis: phases, elements of the weight that a position meets, and how far apart in source two positions are.
const PHASES_Y = 1u + COARSE * (STRIDE_Y - 1u);
const PHASES_X = 1u + COARSE * (STRIDE_X - 1u);
const TAPS_Y = (KERNEL_HEIGHT + PHASES_Y - 1u) / PHASES_Y;
const TAPS_X = (KERNEL_WIDTH + PHASES_X - 1u) / PHASES_X;
const STEP_Y = STRIDE_Y / PHASES_Y;
const STEP_X = STRIDE_X / PHASES_X;
alias Stored = f32; // how activations are stored; f16 halves the bytes that they move
alias Stored4 = vec4<Stored>;

struct Params {
    batch: u32,
    source_height: u32,
    source_width: u32,
    source_channels: u32,
    height: u32,
    width: u32,
    channels: u32,
    first_workgroup: u32,
}

@group(0) @binding(0) var<storage, read> source: array<Stored4>; // [batch, source_height, source_width, source_channels / 4]
@group(0) @binding(1) var<storage, read> weight: array<vec4f>; // [KERNEL_HEIGHT, KERNEL_WIDTH, ..., channels / 4]
@group(0) @binding(2) var<storage, read> bias: array<vec4f>; // [channels / 4]
@group(0) @binding(3) var<storage, read> mask: array<Stored4>; // [batch, height, width, channels / 4]
@group(0) @binding(4) var<storage, read_write> result: array<Stored4>; // [batch, height, width, channels / 4]
@group(0) @binding(5) var<uniform> params: Params;

// Indices that only the code varies come first or last, so that few have to be held against the bounds.
var<workgroup> source_tile: array<array<array<vec4f, QUADS>, ROWS>, PIXELS>;
// By channel of source, then four channels of the result at once; TURNED, four and four change places. What nothing uses at the
// end of a row keeps in different banks what is written at once.
var<workgroup> weight_tile: array<array<vec4f, TILE_QUADS + 1u>, DEPTH>;

// Four channels as they are stored.
fn finished(sum: vec4f, at: u32) -> vec4f {
    var value = sum;
    if RELU == 1u {
        value = select(value, vec4f(), value <= vec4f());
    }
    if MASK == 1u {
        value = select(value, vec4f(), vec4f(mask[at]) <= vec4f());
    }
    return value;
}

@compute @workgroup_size(INVOCATIONS)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) invocation: u32,
) {
    let source_quads = params.source_channels / 4u;
    let quads = params.channels / 4u;
    let tiles_across = (quads + TILE_QUADS - 1u) / TILE_QUADS;
    let phase_height = (params.height + PHASES_Y - 1u) / PHASES_Y;
    let phase_width = (params.width + PHASES_X - 1u) / PHASES_X;
    let index = params.first_workgroup + group.x + group.y * groups.x;
    let first_quad = index % tiles_across * TILE_QUADS;
    let phase_x = index / tiles_across % PHASES_X;
    let phase_y = index / tiles_across / PHASES_X % PHASES_Y;
    let first_pixel = index / tiles_across / PHASES_X / PHASES_Y * TILE_PIXELS;
    let image = min(first_pixel / phase_width / phase_height, params.batch - 1u);
    let own_weight = OWN_WEIGHTS * image * KERNEL_HEIGHT * KERNEL_WIDTH;
    let lane = invocation % LANES;
    let row = invocation / LANES;

    // Position PHASES * a + phase meets element first_q + PHASES * k of the weight at source's STEP * a - PADDING + k, or, if
    // COARSE, at a + shift - k. Rows and columns before the first wrap around to large numbers.
    let first_qy = (phase_y + PADDING_Y) % PHASES_Y;
    let first_qx = (phase_x + PADDING_X) % PHASES_X;
    let shift_y = (phase_y + PADDING_Y) / PHASES_Y;
    let shift_x = (phase_x + PADDING_X) / PHASES_X;

    // Where what this invocation brings into workgroup memory comes from: four channels of several pixels.
    var source_image: array<u32, SOURCE_LOADS>;
    var source_row: array<u32, SOURCE_LOADS>;
    var source_column: array<u32, SOURCE_LOADS>;
    for (var l = 0u; l < SOURCE_LOADS; l++) { // unroll
        let pixel = first_pixel + (invocation + l * INVOCATIONS) / QUADS;
        let y = pixel / phase_width % phase_height;
        let x = pixel % phase_width;
        source_image[l] = min(pixel / phase_width / phase_height, params.batch - 1u);
        source_row[l] = select(y * STEP_Y - PADDING_Y, y + shift_y, COARSE == 1u);
        source_column[l] = select(x * STEP_X - PADDING_X, x + shift_x, COARSE == 1u);
    }

    var sum: array<vec4f, PIXELS * BLOCKS>;
    for (var b = 0u; b < BLOCKS; b++) { // unroll
        // What lies past the last channel is computed as that one and not stored.
        let start = select(vec4f(), bias[min(first_quad + b * LANES + lane, quads - 1u)], BIAS == 1u);
        for (var p = 0u; p < PIXELS; p++) { // unroll
            sum[p * BLOCKS + b] = start;
        }
    }
    // One group of channels at all elements of the weight before the next, so that neighbouring pixels are still in a cache.
    let turns = (source_quads + QUADS - 1u) / QUADS * TAPS_Y * TAPS_X;
    var ky = 0u;
    var kx = 0u;
    var first_source_quad = 0u;
    // The loads of a turn are on their way while the tile of the turn before is multiplied.
    var loaded_source: array<vec4f, SOURCE_LOADS>;
    var loaded_weight: array<vec4f, WEIGHT_LOADS>;
    for (var turn = 0u; turn <= turns; turn++) {
        if turn < turns {
            let qy = first_qy + ky * PHASES_Y;
            let qx = first_qx + kx * PHASES_X;
            let q = own_weight + min(qy, KERNEL_HEIGHT - 1u) * KERNEL_WIDTH + min(qx, KERNEL_WIDTH - 1u);
            let exists = (qy < KERNEL_HEIGHT) & (qx < KERNEL_WIDTH);
            let source_quad = first_source_quad + invocation % QUADS;
            for (var l = 0u; l < SOURCE_LOADS; l++) { // unroll
                let y = select(source_row[l] + ky, source_row[l] - ky, COARSE == 1u);
                let x = select(source_column[l] + kx, source_column[l] - kx, COARSE == 1u);
                let inside = (y < params.source_height) & (x < params.source_width) & (source_quad < source_quads);
                let line = source_image[l] * params.source_height + min(y, params.source_height - 1u);
                let pixel = line * params.source_width + min(x, params.source_width - 1u);
                let value = vec4f(source[pixel * source_quads + min(source_quad, source_quads - 1u)]);
                loaded_source[l] = select(vec4f(), value, inside);
            }
            for (var l = 0u; l < WEIGHT_LOADS; l++) { // unroll
                let part = invocation + l * INVOCATIONS;
                if TURNED == 1u {
                    let c = first_source_quad + part % QUADS;
                    let r = min(4u * first_quad + part / QUADS, params.channels - 1u);
                    let value = weight[(q * params.channels + r) * source_quads + min(c, source_quads - 1u)];
                    loaded_weight[l] = select(vec4f(), value, exists & (c < source_quads));
                } else {
                    let c = 4u * first_source_quad + part / TILE_QUADS;
                    let r = min(first_quad + part % TILE_QUADS, quads - 1u);
                    let value = weight[(q * params.source_channels + min(c, params.source_channels - 1u)) * quads + r];
                    loaded_weight[l] = select(vec4f(), value, exists & (c < params.source_channels));
                }
            }
            kx += 1u;
            if kx == TAPS_X {
                kx = 0u;
                ky += 1u;
            }
            if ky == TAPS_Y {
                ky = 0u;
                first_source_quad += QUADS;
            }
        }
        if turn > 0u {
            for (var c = 0u; c < QUADS; c++) { // unroll
                var w: array<mat4x4f, BLOCKS>;
                for (var b = 0u; b < BLOCKS; b++) { // unroll
                    let at = b * LANES + lane;
                    w[b] = mat4x4f(
                        weight_tile[4u * c][at],
                        weight_tile[4u * c + 1u][at],
                        weight_tile[4u * c + 2u][at],
                        weight_tile[4u * c + 3u][at],
                    );
                    if TURNED == 1u {
                        w[b] = transpose(w[b]);
                    }
                }
                for (var p = 0u; p < PIXELS; p++) { // unroll
                    let s = source_tile[p][row][c];
                    for (var b = 0u; b < BLOCKS; b++) { // unroll
                        for (var k = 0u; k < 4u; k++) { // unroll
                            sum[p * BLOCKS + b] = fma(vec4f(s[k]), w[b][k], sum[p * BLOCKS + b]);
                        }
                    }
                }
            }
        }
        workgroupBarrier(); // All have read the tile of the turn before: it may be overwritten.
        if turn < turns {
            for (var l = 0u; l < SOURCE_LOADS; l++) { // unroll
                let pixel = (invocation + l * INVOCATIONS) / QUADS;
                source_tile[pixel / ROWS][pixel % ROWS][invocation % QUADS] = loaded_source[l];
            }
            for (var l = 0u; l < WEIGHT_LOADS; l++) { // unroll
                let part = invocation + l * INVOCATIONS;
                if TURNED == 1u {
                    weight_tile[4u * (part % QUADS) + part / QUADS % 4u][part / DEPTH] = loaded_weight[l];
                } else {
                    weight_tile[part / TILE_QUADS][part % TILE_QUADS] = loaded_weight[l];
                }
            }
        }
        workgroupBarrier(); // The tile is complete: it may be read.
    }
    for (var p = 0u; p < PIXELS; p++) { // unroll
        let pixel = first_pixel + p * ROWS + row;
        let image = pixel / phase_width / phase_height;
        let y = pixel / phase_width % phase_height * PHASES_Y + phase_y;
        let x = pixel % phase_width * PHASES_X + phase_x;
        for (var b = 0u; b < BLOCKS; b++) { // unroll
            let quad = first_quad + b * LANES + lane;
            if image < params.batch && y < params.height && x < params.width && quad < quads {
                let at = ((image * params.height + y) * params.width + x) * quads + quad;
                result[at] = Stored4(finished(sum[p * BLOCKS + b], at));
            }
        }
    }
}
