// Sums over the middle axis of [outer, axis, inner], in parts of `step`:
// out[o, part, i] = sum of x[o, a, i] over a from part * step on.
// params: words of out, axis, inner, parts, step.

@group(0) @binding(0) var<storage, read> params: array<u32>;
@group(0) @binding(1) var<storage, read_write> out: array<Fp>;
@group(0) @binding(2) var<storage, read> x: array<Fp>;

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let n = params[0];
    let axis = params[1];
    let inner = params[2];
    let parts = params[3];
    let step = params[4];
    for (var word = id.x; word < n; word += groups.x * 256u) {
        let i = word % inner;
        let row = word / inner;
        let begin = (row % parts) * step;
        let until = min(begin + step, axis);
        let base = row / parts * axis;
        var sum = vec2(0u);
        for (var a = begin; a < until; a += 1u) {
            sum = add(sum, x[(base + a) * inner + i]);
        }
        out[word] = sum;
    }
}
