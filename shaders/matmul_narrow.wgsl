// out = x * y (+ add, if ADD is 1) for x of [m, k] and y of [k, n], on devices
// without 64-bit integers: 32 x 32 results a workgroup, 2 x 2 a thread, 16 of k
// at a time in workgroup memory (8 KiB).
// params: m, k, n.
//
// Limbs are 13 bits, the fifth 9. Sixteen steps of k fit the 32-bit columns: the
// fourth, of four products, is at most 64 * (2^13 - 1)^2 = 2^32 - 1048512, which
// leaves room for a carry of 19 bits.

@group(0) @binding(0) var<storage, read> params: array<u32>;
@group(0) @binding(1) var<storage, read_write> out: array<Fp>;
@group(0) @binding(2) var<storage, read> x: array<Fp>;
@group(0) @binding(3) var<storage, read> y: array<Fp>;
//: for t in 0..ADD {
@group(0) @binding(4) var<storage, read> addend: array<Fp>;
//: }

var<workgroup> left: array<Fp, 512>;
var<workgroup> right: array<Fp, 512>;

// Nine columns at 2^(13k) to canonical: carried into ten limbs, of which the
// upper five are 16 times the lower ones (2^65 = 16 mod p).
fn fold_columns(c0: u32, c1: u32, c2: u32, c3: u32, c4: u32, c5: u32, c6: u32, c7: u32, c8: u32) -> Fp {
    let t1 = c1 + (c0 >> 13u);
    let t2 = c2 + (t1 >> 13u);
    let t3 = c3 + (t2 >> 13u);
    let t4 = c4 + (t3 >> 13u);
    let t5 = c5 + (t4 >> 13u);
    let t6 = c6 + (t5 >> 13u);
    let t7 = c7 + (t6 >> 13u);
    let t8 = c8 + (t7 >> 13u);
    return fold(carry(
        (c0 & LIMB) + ((t5 & LIMB) << 4u),
        (t1 & LIMB) + ((t6 & LIMB) << 4u),
        (t2 & LIMB) + ((t7 & LIMB) << 4u),
        (t3 & LIMB) + ((t8 & LIMB) << 4u),
        (t4 & LIMB) + ((t8 >> 13u) << 4u),
    ));
}

@compute @workgroup_size(16, 16)
fn main(@builtin(local_invocation_id) local: vec3<u32>, @builtin(workgroup_id) group: vec3<u32>,
        @builtin(local_invocation_index) thread: u32) {
    let m = params[0];
    let k = params[1];
    let n = params[2];
    let row = group.y * 32u;
    let column = group.x * 32u;
    //: for r in 0..2 {
    //: for c in 0..2 {
    var acc${r}${c} = vec2(0u);
    //: }
    //: }
    for (var begin = 0u; begin < k; begin += 16u) {
        // Each thread brings two words of either side; past the edge, zeros.
        for (var word = thread; word < 512u; word += 256u) {
            let left_row = row + word / 16u;
            let left_k = begin + word % 16u;
            var value = vec2(0u);
            if left_row < m && left_k < k {
                value = x[left_row * k + left_k];
            }
            left[word] = value;
            let right_k = begin + word / 32u;
            let right_column = column + word % 32u;
            value = vec2(0u);
            if right_k < k && right_column < n {
                value = y[right_k * n + right_column];
            }
            right[word] = value;
        }
        workgroupBarrier();
        //: for r in 0..2 {
        //: for c in 0..2 {
        //: for e in 0..9 {
        var c${r}${c}${e} = 0u;
        //: }
        //: }
        //: }
        for (var step = 0u; step < 16u; step += 1u) {
            //: for r in 0..2 {
            let a${r} = left[(local.y * 2u + ${r}u) * 16u + step];
            let b${r} = right[step * 32u + local.x + ${r}u * 16u];
            let a${r}0 = a${r}.x & LIMB;
            let a${r}1 = (a${r}.x >> 13u) & LIMB;
            let a${r}2 = (a${r}.x >> 26u) | ((a${r}.y & 0x7fu) << 6u);
            let a${r}3 = (a${r}.y >> 7u) & LIMB;
            let a${r}4 = a${r}.y >> 20u;
            let b${r}0 = b${r}.x & LIMB;
            let b${r}1 = (b${r}.x >> 13u) & LIMB;
            let b${r}2 = (b${r}.x >> 26u) | ((b${r}.y & 0x7fu) << 6u);
            let b${r}3 = (b${r}.y >> 7u) & LIMB;
            let b${r}4 = b${r}.y >> 20u;
            //: }
            //: for r in 0..2 {
            //: for c in 0..2 {
            //: for i in 0..5 {
            //: for j in 0..5 {
            c${r}${c}${i+j} += a${r}${i} * b${c}${j};
            //: }
            //: }
            //: }
            //: }
        }
        //: for r in 0..2 {
        //: for c in 0..2 {
        acc${r}${c} = add(acc${r}${c}, fold_columns(
            //: for e in 0..9 {
            c${r}${c}${e},
            //: }
        ));
        //: }
        //: }
        workgroupBarrier();
    }
    //: for r in 0..2 {
    //: for c in 0..2 {
    {
        let to_row = row + local.y * 2u + ${r}u;
        let to_column = column + local.x + ${c}u * 16u;
        if to_row < m && to_column < n {
            let to = to_row * n + to_column;
            //: for t in 0..ADD {
            acc${r}${c} = add(acc${r}${c}, addend[to]);
            //: }
            out[to] = acc${r}${c};
        }
    }
    //: }
    //: }
}
