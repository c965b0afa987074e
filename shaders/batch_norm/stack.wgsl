// moments[0, 0, c] = mean[c], moments[0, 1, c] = variance[c]
// One invocation owns one channel, one workgroup 64 neighbours. Bytes moved: 16 per channel.
struct Params { count: u32 }

@group(0) @binding(0) var<storage, read> mean: array<f32>; // [count]
@group(0) @binding(1) var<storage, read> variance: array<f32>; // [count]
@group(0) @binding(2) var<storage, read_write> moments: array<f32>; // [1, 2, count]
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
    moments[i] = mean[i];
    moments[params.count + i] = variance[i];
}
