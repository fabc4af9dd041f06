// Comparison leaves of one digit for one threshold T, from 2^bits one-hot rows:
// with u = the digit of c - T that starts at bit `from`, greater = the sum of
// the rows above u (+ (1 - msb c) * carry[u], if CARRY is 1), equal = row u.
// params: n, from, T, rows, base of both results.

@group(0) @binding(0) var<storage, read> params: array<u32>;
@group(0) @binding(1) var<storage, read_write> greater: array<Fp>;
@group(0) @binding(2) var<storage, read_write> equal: array<Fp>;
@group(0) @binding(3) var<storage, read> c: array<Fp>;
@group(0) @binding(4) var<storage, read> one_hot: array<Fp>;
//: for t in 0..CARRY {
@group(0) @binding(5) var<storage, read> carry_rows: array<Fp>;
//: }

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let n = params[0];
    let threshold = vec2(params[2], params[3]);
    let rows = params[4];
    let base = params[5];
    for (var i = id.x; i < n; i += groups.x * 256u) {
        // c and T are public, so u may index; the rows are only added.
        let c_i = c[i];
        let u = shift_down(below(c_i, threshold), params[1]).x & (rows - 1u);
        var sum = vec2(0u);
        for (var v = u + 1u; v < rows; v += 1u) {
            sum = add(sum, one_hot[v * n + i]);
        }
        //: for t in 0..CARRY {
        if !top(c_i) {
            sum = add(sum, carry_rows[u * n + i]);
        }
        //: }
        greater[base + i] = sum;
        equal[base + i] = one_hot[u * n + i];
    }
}
