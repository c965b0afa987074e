// velocity = momentum * velocity + (gradient + weight_decay * parameter), then parameter -= learning_rate * velocity
// One invocation owns one element of the banks, one workgroup 64 neighbours a turn. Bytes moved: 20 per element.
struct Params { count: u32, momentum: f32, weight_decay: f32 }

const SCALED = false; // true: the loss is scaled, and nothing changes where its state says so

@group(0) @binding(0) var<storage, read_write> parameter: array<f32>; // [count]
@group(0) @binding(1) var<storage, read> gradient: array<f32>; // [count]
@group(0) @binding(2) var<storage, read_write> velocity: array<f32>; // [count]
@group(0) @binding(3) var<storage, read> learning_rate: array<f32>; // [1]
@group(0) @binding(4) var<storage, read> state: array<f32>; // [6] of loss_scale; where not SCALED any buffer stands in its place
@group(0) @binding(5) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    if SCALED && state[3] != 0.0 {
        return;
    }
    // Read once: a driver may not know that it stays the same.
    let rate = learning_rate[0];
    let turns = (params.count - 1u) / (64u * groups.x * groups.y) + 1u;
    for (var turn = 0u; turn < turns; turn++) {
        let i = ((group.x + group.y * groups.x) * turns + turn) * 64u + lane;
        if i >= params.count {
            return;
        }
        let p = parameter[i];
        let v = params.momentum * velocity[i] + (gradient[i] + params.weight_decay * p);
        velocity[i] = v;
        parameter[i] = p - rate * v;
    }
}
