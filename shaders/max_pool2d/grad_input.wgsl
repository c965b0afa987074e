// grad_input = grad_output at the first maximum of each window in row-major order, else 0
// With SKIP, plus grad_skip inside the crop that was used, and 0 where x <= 0: the gradient of a ReLU whose result x is pooled,
// and used as a skip.
// One invocation owns one of the Elements of one window of x, cut windows at the lower and right edge included, whose gradient
// is 0; one workgroup 64 neighbours a turn. Bytes moved: 8 per element of x, 4 per element of grad_output and of the crop.
alias Stored = f32; // how activations are stored; f16 halves the bytes that they move
alias Elements = Stored; // or vec4<Stored>: four channels at once; all numbers of channels are then of fours
alias Values = f32; // or vec4f
alias Places = u32; // or vec4u

struct Params {
    count: u32,
    in_height: u32,
    in_width: u32,
    out_height: u32,
    out_width: u32,
    channels: u32,
    crop_height: u32,
    crop_width: u32,
    top: u32,
    left: u32,
}

const KERNEL_SIZE = 2u;
const SKIP = 0u; // 0: any buffer stands in the place of grad_skip

@group(0) @binding(0) var<storage, read> x: array<Elements>; // [n, in_height, in_width, channels]
@group(0) @binding(1) var<storage, read> grad_output: array<Elements>; // [n, out_height, out_width, channels]
@group(0) @binding(2) var<storage, read> grad_skip: array<Elements>; // [n, crop_height, crop_width, channels]
@group(0) @binding(3) var<storage, read_write> grad_input: array<Elements>; // [n, in_height, in_width, channels]
@group(0) @binding(4) var<uniform> params: Params; // count: n * ceil(in_height / k) * ceil(in_width / k) * channels

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
        let columns = (params.in_width + KERNEL_SIZE - 1u) / KERNEL_SIZE;
        let rows = (params.in_height + KERNEL_SIZE - 1u) / KERNEL_SIZE;
        let c = i % params.channels;
        let window = i / params.channels;
        let ox = window % columns;
        let oy = window / columns % rows;
        let n = window / columns / rows;
        let height = min(KERNEL_SIZE, params.in_height - oy * KERNEL_SIZE);
        let width = min(KERNEL_SIZE, params.in_width - ox * KERNEL_SIZE);
        let first = ((n * params.in_height + oy * KERNEL_SIZE) * params.in_width + ox * KERNEL_SIZE) * params.channels + c;

        var grad = Values();
        var winner = Places();
        if oy < params.out_height && ox < params.out_width {
            grad = Values(grad_output[((n * params.out_height + oy) * params.out_width + ox) * params.channels + c]);
            var best = Values(x[first]);
            for (var r = 0u; r < KERNEL_SIZE; r++) {
                for (var s = 0u; s < KERNEL_SIZE; s++) {
                    let value = Values(x[first + (r * params.in_width + s) * params.channels]);
                    winner = select(winner, Places(r * KERNEL_SIZE + s), value > best);
                    best = select(best, value, value > best);
                }
            }
        }
        for (var r = 0u; r < height; r++) {
            for (var s = 0u; s < width; s++) {
                // Left of and above the crop these wrap around to huge numbers, which are outside as well.
                let column = ox * KERNEL_SIZE + s - params.left;
                let line = oy * KERNEL_SIZE + r - params.top;
                var sum = select(Values(), grad, winner == Places(r * KERNEL_SIZE + s));
                if SKIP == 1u && line < params.crop_height && column < params.crop_width {
                    let pixel = (n * params.crop_height + line) * params.crop_width + column;
                    sum += Values(grad_skip[pixel * params.channels + c]);
                }
                let here = first + (r * params.in_width + s) * params.channels;
                if SKIP == 1u {
                    sum = select(sum, Values(), Values(x[here]) <= Values());
                }
                grad_input[here] = Elements(sum);
            }
        }
    }
}
