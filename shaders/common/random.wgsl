// Counter-based random numbers: the same integers as src/random.rs, for every seed, stream and counter.
// pcg3d: Jarzynski and Olano, "Hash Functions for GPU Rendering", JCGT 9(3), 2020.

fn pcg3d(words: vec3<u32>) -> vec3<u32> {
    var v = words * 1664525u + 1013904223u;
    v.x += v.y * v.z;
    v.y += v.z * v.x;
    v.z += v.x * v.y;
    v ^= v >> vec3<u32>(16u);
    v.x += v.y * v.z;
    v.y += v.z * v.x;
    v.z += v.x * v.y;
    return v;
}

// One word from three. The low bits of pcg3d repeat after 2^17 counters; folding the high half in mends that.
fn hash(seed: u32, stream: u32, counter: u32) -> u32 {
    let word = pcg3d(vec3<u32>(counter, stream, seed)).x;
    return word ^ (word >> 16u);
}

// The top 24 bits as a number in [0, 1): exact in f32.
fn to_unit(word: u32) -> f32 {
    return f32(word >> 8u) * 0x1p-24f;
}
