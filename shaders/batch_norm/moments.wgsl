// mean = m0 + sum over strips of n * (m - m0) / terms, variance = sum over strips of (q + n * (m - mean)^2) / terms,
// where n is the number of a strip's terms, m their mean, m0 the first strip's, q the sum of the squares of their distances to it
// One invocation owns one mean and its variance, one workgroup 64 neighbours. Bytes moved: 12 per strip, 8 per statistic.
struct Params { count: u32, groups: u32, terms: u32, strips: u32 }

@group(0) @binding(0) var<storage, read> partials: array<f32>; // [strips, 2, count]
@group(0) @binding(1) var<storage, read_write> moments: array<f32>; // [sets, 2, groups]
@group(0) @binding(2) var<uniform> params: Params; // count: statistics, sets * groups

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
    let pivot = partials[i];
    var sum = 0.0;
    for (var strip = 0u; strip < params.strips; strip++) {
        let terms = f32((params.terms - strip - 1u) / params.strips + 1u);
        sum += terms * (partials[strip * 2u * params.count + i] - pivot);
    }
    let mean = pivot + sum / f32(params.terms);
    var squares = 0.0;
    for (var strip = 0u; strip < params.strips; strip++) {
        let terms = f32((params.terms - strip - 1u) / params.strips + 1u);
        let distance = partials[strip * 2u * params.count + i] - mean;
        squares += partials[(strip * 2u + 1u) * params.count + i] + terms * distance * distance;
    }
    let at = i / params.groups * 2u * params.groups + i % params.groups;
    moments[at] = mean;
    moments[at + params.groups] = squares / f32(params.terms);
}
