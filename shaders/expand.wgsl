// out = sum of k * stream over the streams (+ add, if ADD is 1), words from
// `first` on: ChaCha20 (RFC 8439), one block of eight words a thread.
// params: n, number of streams, number of the first block, REJECT as two words,
// -, then for each stream its key (eight words) and coefficient (two).
//
// A word is the low 61 bits of a raw one; REJECT, which is p, is drawn again from
// the block of the same index under the next nonce, as src/prg.rs says. (Tests
// set a mask of fewer bits in its place, to see it happen.)

@group(0) @binding(0) var<storage, read> params: array<u32>;
@group(0) @binding(1) var<storage, read_write> out: array<Fp>;
//: for t in 0..ADD {
@group(0) @binding(2) var<storage, read> addend: array<Fp>;
//: }

fn turn(x: u32, by: u32) -> u32 {
    return (x << by) | (x >> (32u - by));
}

fn quarter(state: vec4<u32>) -> vec4<u32> {
    var s = state;
    s.x += s.y; s.w = turn(s.w ^ s.x, 16u);
    s.z += s.w; s.y = turn(s.y ^ s.z, 12u);
    s.x += s.y; s.w = turn(s.w ^ s.x, 8u);
    s.z += s.w; s.y = turn(s.y ^ s.z, 7u);
    return s;
}

// The eight raw words of a block.
fn block(key: u32, counter: u32, nonce: u32) -> array<Fp, 8> {
    // Column q of the state is (constant, key q, key q + 4, counter or nonce).
    let s0 = vec4(0x61707865u, params[key], params[key + 4u], counter);
    let s1 = vec4(0x3320646eu, params[key + 1u], params[key + 5u], nonce);
    let s2 = vec4(0x79622d32u, params[key + 2u], params[key + 6u], 0u);
    let s3 = vec4(0x6b206574u, params[key + 3u], params[key + 7u], 0u);
    var c0 = s0;
    var c1 = s1;
    var c2 = s2;
    var c3 = s3;
    for (var round = 0u; round < 10u; round += 1u) {
        c0 = quarter(c0);
        c1 = quarter(c1);
        c2 = quarter(c2);
        c3 = quarter(c3);
        let d0 = quarter(vec4(c0.x, c1.y, c2.z, c3.w));
        let d1 = quarter(vec4(c1.x, c2.y, c3.z, c0.w));
        let d2 = quarter(vec4(c2.x, c3.y, c0.z, c1.w));
        let d3 = quarter(vec4(c3.x, c0.y, c1.z, c2.w));
        c0 = vec4(d0.x, d3.y, d2.z, d1.w);
        c1 = vec4(d1.x, d0.y, d3.z, d2.w);
        c2 = vec4(d2.x, d1.y, d0.z, d3.w);
        c3 = vec4(d3.x, d2.y, d1.z, d0.w);
    }
    c0 += s0;
    c1 += s1;
    c2 += s2;
    c3 += s3;
    return array<Fp, 8>(
        vec2(c0.x, c1.x), vec2(c2.x, c3.x), vec2(c0.y, c1.y), vec2(c2.y, c3.y),
        vec2(c0.z, c1.z), vec2(c2.z, c3.z), vec2(c0.w, c1.w), vec2(c2.w, c3.w),
    );
}

fn rejected(word: Fp) -> bool {
    let mask = vec2(params[3], params[4]);
    return all((word & mask) == mask);
}

// The word at a place in a block whose first draw was rejected. Nobody ever
// uses the rejected one, so the branch tells nothing of a word that is kept.
fn redraw(key: u32, counter: u32, place: u32) -> Fp {
    var word = P;
    for (var nonce = 1u; rejected(word); nonce += 1u) {
        var words = block(key, counter, nonce);
        word = words[place] & P;
    }
    return word;
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let n = params[0];
    for (var at = id.x; at * 8u < n; at += groups.x * 64u) {
        let counter = params[2] + at;
        //: for w in 0..8 {
        var sum${w} = vec2(0u);
        //: }
        for (var s = 0u; s < params[1]; s += 1u) {
            let key = 6u + 10u * s;
            let k = vec2(params[key + 8u], params[key + 9u]);
            let words = block(key, counter, 0u);
            //: for w in 0..8 {
            var word${w} = words[${w}] & P;
            if rejected(word${w}) {
                word${w} = redraw(key, counter, ${w}u);
            }
            sum${w} = add(sum${w}, scaled(k, word${w}));
            //: }
        }
        let first = at * 8u;
        //: for w in 0..8 {
        if first + ${w}u < n {
            //: for t in 0..ADD {
            sum${w} = add(sum${w}, addend[first + ${w}u]);
            //: }
            out[first + ${w}u] = sum${w};
        }
        //: }
    }
}
