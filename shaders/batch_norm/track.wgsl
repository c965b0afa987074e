// updated[c] = keep * old[c] + share * moments[first + c]
// One invocation owns one channel, one workgroup 64 neighbours. Bytes moved: 12 per channel.
struct Params { count: u32, first: u32, keep: f32, share: f32 }

@group(0) @binding(0) var<storage, read> old: array<f32>; // [count]
@group(0) @binding(1) var<storage, read> moments: array<f32>; // [1, 2, count]
@group(0) @binding(2) var<storage, read_write> updated: array<f32>; // [count]
@group(0) @binding(3) var<uniform> params: Params; // count: channels

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
    updated[i] = params.keep * old[i] + params.share * moments[params.first + i];
}
