// y[n, oy, ox, c] = max over r, s < KERNEL_SIZE of x[n, oy * KERNEL_SIZE + r, ox * KERNEL_SIZE + s, c]
// One invocation owns one of the Elements of y, one workgroup 64 a turn. Bytes moved: 4 per element of y and of each window.
alias Stored = f32; // how activations are stored; f16 halves the bytes that they move
alias Elements = Stored; // or vec4<Stored>: four channels at once; all numbers of channels are then of fours

struct Params { count: u32, in_height: u32, in_width: u32, out_height: u32, out_width: u32, channels: u32 }

const KERNEL_SIZE = 2u;

@group(0) @binding(0) var<storage, read> x: array<Elements>; // [n, in_height, in_width, channels]
@group(0) @binding(1) var<storage, read_write> y: array<Elements>; // [n, out_height, out_width, channels]
@group(0) @binding(2) var<uniform> params: Params; // count: elements of y

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
        let c = i % params.channels;
        let pixel = i / params.channels;
        let ox = pixel % params.out_width;
        let row = pixel / params.out_width; // n * out_height + oy
        let top = row / params.out_height * params.in_height + row % params.out_height * KERNEL_SIZE;
        let first = (top * params.in_width + ox * KERNEL_SIZE) * params.channels + c;
        var best = x[first];
        for (var r = 0u; r < KERNEL_SIZE; r++) {
            for (var s = 0u; s < KERNEL_SIZE; s++) {
                let value = x[first + (r * params.in_width + s) * params.channels];
                best = select(best, value, value > best);
            }
        }
        y[i] = best;
    }
}
