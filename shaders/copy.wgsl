// Moves words from one strided nest of three levels to another: transposition,
// slice, repetition and concatenation.
// params: words, axis, inner, then base and three strides of the source, then of
// the destination, in words. Word (o, a, i) is number (o * axis + a) * inner + i.

@group(0) @binding(0) var<storage, read> params: array<u32>;
@group(0) @binding(1) var<storage, read_write> out: array<Fp>;
@group(0) @binding(2) var<storage, read> x: array<Fp>;

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let n = params[0];
    let axis = params[1];
    let inner = params[2];
    for (var word = id.x; word < n; word += groups.x * 256u) {
        let i = word % inner;
        let row = word / inner;
        let a = row % axis;
        let o = row / axis;
        let source = params[3] + o * params[4] + a * params[5] + i * params[6];
        let target_word = params[7] + o * params[8] + a * params[9] + i * params[10];
        out[target_word] = x[source];
    }
}
