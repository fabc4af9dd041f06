// out = x * y (+ add, if ADD is 1) for x of [m, k] and y of [k, n], on devices
// with 64-bit integers: 64 x 64 results a workgroup, 4 x 4 a thread, 16 of k at
// a time in workgroup memory (16 KiB).
// params: m, k, n.
//
// Limbs are 31 and 30 bits, so products of limbs are at most (2^31 - 1)^2, and
// four steps of k fit the 64-bit columns: 4 * (2^31 - 1)^2 < 2^64,
// 8 * (2^31 - 1) * (2^30 - 1) < 2^64, 4 * (2^30 - 1)^2 < 2^62.

@group(0) @binding(0) var<storage, read> params: array<u32>;
@group(0) @binding(1) var<storage, read_write> out: array<Fp>;
@group(0) @binding(2) var<storage, read> x: array<Fp>;
@group(0) @binding(3) var<storage, read> y: array<Fp>;
//: for t in 0..ADD {
@group(0) @binding(4) var<storage, read> addend: array<Fp>;
//: }

var<workgroup> left: array<vec2<u32>, 1024>;
var<workgroup> right: array<vec2<u32>, 1024>;

const P64: u64 = 0x1ffffffffffffffflu;

fn limbs(a: Fp) -> vec2<u32> {
    return vec2(a.x & 0x7fffffffu, (a.x >> 31u) | (a.y << 1u));
}

// acc < 2^61 + 8 and three columns to a word of the same bound: the columns
// give at most 3 * 2^61 + 2^35, so one fold is enough.
fn fold_columns(acc: u64, low: u64, middle: u64, high: u64) -> u64 {
    let sum = acc + (low & P64) + (low >> 61u)
        + (middle >> 30u) + ((middle & 0x3ffffffflu) << 31u)
        + ((high << 1u) & P64) + (high >> 60u);
    return (sum & P64) + (sum >> 61u);
}

@compute @workgroup_size(16, 16)
fn main(@builtin(local_invocation_id) local: vec3<u32>, @builtin(workgroup_id) group: vec3<u32>,
        @builtin(local_invocation_index) thread: u32) {
    let m = params[0];
    let k = params[1];
    let n = params[2];
    let row = group.y * 64u;
    let column = group.x * 64u;
    //: for r in 0..4 {
    //: for c in 0..4 {
    var acc${r}${c} = 0lu;
    //: }
    //: }
    for (var begin = 0u; begin < k; begin += 16u) {
        // Each thread brings four words of either side; past the edge, zeros.
        for (var word = thread; word < 1024u; word += 256u) {
            let left_row = row + word / 16u;
            let left_k = begin + word % 16u;
            var value = vec2(0u);
            if left_row < m && left_k < k {
                value = limbs(x[left_row * k + left_k]);
            }
            left[word] = value;
            let right_k = begin + word / 64u;
            let right_column = column + word % 64u;
            value = vec2(0u);
            if right_k < k && right_column < n {
                value = limbs(y[right_k * n + right_column]);
            }
            right[word] = value;
        }
        workgroupBarrier();
        for (var step = 0u; step < 16u; step += 4u) {
            //: for q in 0..4 {
            //: for r in 0..4 {
            let a${r}${q} = left[(local.y * 4u + ${r}u) * 16u + step + ${q}u];
            let b${q}${r} = right[(step + ${q}u) * 64u + local.x + ${r}u * 16u];
            //: }
            //: }
            //: for r in 0..4 {
            //: for c in 0..4 {
            {
                var low = 0lu;
                var middle = 0lu;
                var high = 0lu;
                //: for q in 0..4 {
                low += u64(a${r}${q}.x) * u64(b${q}${c}.x);
                middle += u64(a${r}${q}.x) * u64(b${q}${c}.y) + u64(a${r}${q}.y) * u64(b${q}${c}.x);
                high += u64(a${r}${q}.y) * u64(b${q}${c}.y);
                //: }
                acc${r}${c} = fold_columns(acc${r}${c}, low, middle, high);
            }
            //: }
            //: }
        }
        workgroupBarrier();
    }
    //: for r in 0..4 {
    //: for c in 0..4 {
    {
        let to_row = row + local.y * 4u + ${r}u;
        let to_column = column + local.x + ${c}u * 16u;
        if to_row < m && to_column < n {
            let to = to_row * n + to_column;
            var word = fold(vec2(u32(acc${r}${c} & 0xfffffffflu), u32(acc${r}${c} >> 32u)));
            //: for t in 0..ADD {
            word = add(word, addend[to]);
            //: }
            out[to] = word;
        }
    }
    //: }
    //: }
}
