// y[p, c] = x[p, c] where x[p, c] > 0, else slope[c] * x[p, c]; a single slope serves all channels
// One invocation owns one element, one workgroup 64 neighbours a turn. Bytes moved: 8 per element.
alias Stored = f32; // how activations are stored; f16 halves the bytes that they move

struct Params { count: u32, slopes: u32 }

@group(0) @binding(0) var<storage, read> x: array<Stored>; // [pixels, channels]
@group(0) @binding(1) var<storage, read> slope: array<f32>; // [slopes], which is channels or 1
@group(0) @binding(2) var<storage, read_write> y: array<Stored>; // [pixels, channels]
@group(0) @binding(3) var<uniform> params: Params; // count: elements

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let turns = (params.count - 1u) / (64u * groups.x * groups.y) + 1u;
    for (var turn = 0u; turn < turns; turn++) {
        let i = ((group.x + group.y * groups.x) * turns + turn) * 64u + lane;
        if i >= params.count {
            return;
        }
        let value = f32(x[i]);
        y[i] = Stored(select(slope[i % params.slopes] * value, value, value > 0.0));
    }
}
