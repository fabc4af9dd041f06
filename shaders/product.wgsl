// out = x * y (+ add, if ADD is 1), elementwise.
// params: n.

@group(0) @binding(0) var<storage, read> params: array<u32>;
@group(0) @binding(1) var<storage, read_write> out: array<Fp>;
@group(0) @binding(2) var<storage, read> x: array<Fp>;
@group(0) @binding(3) var<storage, read> y: array<Fp>;
//: for t in 0..ADD {
@group(0) @binding(4) var<storage, read> addend: array<Fp>;
//: }

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let n = params[0];
    for (var i = id.x; i < n; i += groups.x * 256u) {
        var word = wide_mul(x[i], y[i]);
        //: for t in 0..ADD {
        word = wide_add(word, addend[i]);
        //: }
        out[i] = reduce(word);
    }
}
