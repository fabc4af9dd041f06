// Opens a batch from the shares of K senders, D of which fix the polynomial:
// out = sum of at_zero * share over the first D; each further share must be the
// combination that its parity row says. The first word that fails leaves
// words - its index in `wrong`, which starts at 0.
// params: n, index of the first word, words in all, -, then D coefficients at 0
// and D for each of the K - D rows (two words each).

@group(0) @binding(0) var<storage, read> params: array<u32>;
@group(0) @binding(1) var<storage, read_write> out: array<Fp>;
@group(0) @binding(2) var<storage, read_write> wrong: atomic<u32>;
//: for s in 0..K {
@group(0) @binding(${s+3}) var<storage, read> share${s}: array<Fp>;
//: }

fn coefficient(row: u32, column: u32) -> Fp {
    let at = 4u + 2u * (row * ${D}u + column);
    return vec2(params[at], params[at + 1u]);
}

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let n = params[0];
    for (var i = id.x; i < n; i += groups.x * 256u) {
        //: for s in 0..K {
        let word${s} = share${s}[i];
        //: }
        var sum = vec2(0u);
        //: for s in 0..D {
        sum = add(sum, mul(coefficient(0u, ${s}u), word${s}));
        //: }
        out[i] = sum;
        //: for r in D..K {
        sum = vec2(0u);
        //: for s in 0..D {
        sum = add(sum, mul(coefficient(${r}u - ${D}u + 1u, ${s}u), word${s}));
        //: }
        if any(sum != word${r}) {
            atomicMax(&wrong, params[2] - params[1] - i);
        }
        //: }
    }
    // Keeps the binding where there is no parity row.
    if n == 0u {
        atomicMax(&wrong, 0u);
    }
}
