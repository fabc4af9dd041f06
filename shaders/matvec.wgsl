// A vector times a matrix, from either side, in parts of `step` along k:
// out[part, j] = sum of x[i] * m[i * by_k + j * by_j] over i from part * step on.
// params: words of out, k, columns of out, step, by_k, by_j.

@group(0) @binding(0) var<storage, read> params: array<u32>;
@group(0) @binding(1) var<storage, read_write> out: array<Fp>;
@group(0) @binding(2) var<storage, read> x: array<Fp>;
@group(0) @binding(3) var<storage, read> m: array<Fp>;

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let n = params[0];
    let columns = params[2];
    let step = params[3];
    for (var word = id.x; word < n; word += groups.x * 256u) {
        let j = word % columns;
        let begin = word / columns * step;
        let until = min(begin + step, params[1]);
        var sum = vec2(0u);
        for (var i = begin; i < until; i += 1u) {
            sum = reduce(wide_add(sum, wide_mul(x[i], m[i * params[4] + j * params[5]])));
        }
        out[word] = sum;
    }
}
