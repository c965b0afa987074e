// Of each strip of the terms behind a mean and a variance: partials[strip, 0, k] = the mean of its terms,
// partials[strip, 1, k] = the sum of the squares of their distances to that mean
// k counts the statistics: groups of channels in each of several sets of pixels
// Strip s has the terms s, s + strips, s + 2 strips, …; the mean is its first one plus the mean distance to that, so that
// rounding is in proportion to how far terms lie apart and the mean of equal ones is what they are.
// One invocation owns a strip of one statistic, one workgroup 64 neighbours. Bytes moved: 8 per term, 8 per strip.
alias Stored = f32; // how activations are stored; f16 halves the bytes that they move

struct Params { count: u32, statistics: u32, groups: u32, pixels: u32, channels: u32, strips: u32 }

@group(0) @binding(0) var<storage, read> x: array<Stored>; // [sets, pixels, channels]
@group(0) @binding(1) var<storage, read_write> partials: array<f32>; // [strips, 2, statistics]
@group(0) @binding(2) var<uniform> params: Params; // count: strips of all statistics; statistics: sets * groups

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
    let k = i % params.statistics;
    let strip = i / params.statistics;
    let size = params.channels / params.groups;
    let terms = params.pixels * size;
    let first = k / params.groups * params.pixels * params.channels + k % params.groups * size;
    let pivot = f32(x[first + strip / size * params.channels + strip % size]);
    var sum = 0.0;
    for (var t = strip; t < terms; t += params.strips) {
        sum += f32(x[first + t / size * params.channels + t % size]) - pivot;
    }
    let mean = pivot + sum / f32((terms - strip - 1u) / params.strips + 1u);
    var squares = 0.0;
    for (var t = strip; t < terms; t += params.strips) {
        let distance = f32(x[first + t / size * params.channels + t % size]) - mean;
        squares += distance * distance;
    }
    partials[strip * 2u * params.statistics + k] = mean;
    partials[(strip * 2u + 1u) * params.statistics + k] = squares;
}
