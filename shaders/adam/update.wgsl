// g = gradient + weight_decay * parameter, or, where DECOUPLED, the gradient alone and the parameter shrinks instead;
// exp_avg = beta1 * exp_avg + (1 - beta1) * g, exp_avg_sq = beta2 * exp_avg_sq + (1 - beta2) * g * g, then
// parameter -= learning rate * (exp_avg / correction1) / (sqrt(exp_avg_sq / correction2) + epsilon)
// One invocation owns one element of the banks, one workgroup 64 neighbours a turn. Bytes moved: 28 per element.
struct Params { count: u32, beta1: f32, beta2: f32, epsilon: f32, weight_decay: f32 }

const DECOUPLED = false;
const SCALED = false; // true: the loss is scaled, its state has the corrections, and nothing changes where it says so

@group(0) @binding(0) var<storage, read_write> parameter: array<f32>; // [count]
@group(0) @binding(1) var<storage, read> gradient: array<f32>; // [count]
@group(0) @binding(2) var<storage, read_write> exp_avg: array<f32>; // [count]
@group(0) @binding(3) var<storage, read_write> exp_avg_sq: array<f32>; // [count]
@group(0) @binding(4) var<storage, read> rates: array<f32>; // [3]: learning rate, correction1, correction2
@group(0) @binding(5) var<storage, read> state: array<f32>; // [6] of loss_scale; where not SCALED any buffer stands in its place
@group(0) @binding(6) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    // Read once: a driver may not know that it stays the same.
    let rate = rates[0];
    var correction1 = rates[1];
    var correction2 = rates[2];
    if SCALED {
        if state[3] != 0.0 {
            return;
        }
        correction1 = state[4];
        correction2 = state[5];
    }
    let turns = (params.count - 1u) / (64u * groups.x * groups.y) + 1u;
    for (var turn = 0u; turn < turns; turn++) {
        let i = ((group.x + group.y * groups.x) * turns + turn) * 64u + lane;
        if i >= params.count {
            return;
        }
        var w = parameter[i];
        var g = gradient[i];
        if DECOUPLED {
            w *= 1.0 - rate * params.weight_decay;
        } else {
            g += params.weight_decay * w;
        }
        let m = params.beta1 * exp_avg[i] + (1.0 - params.beta1) * g;
        let v = params.beta2 * exp_avg_sq[i] + (1.0 - params.beta2) * g * g;
        exp_avg[i] = m;
        exp_avg_sq[i] = v;
        parameter[i] = w - rate * ((m / correction1) / (sqrt(v / correction2) + params.epsilon));
    }
}
