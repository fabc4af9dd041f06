// out = public * ((c - T) >> by) - high + (1 - msb c) * 2^(61 - by) * msb + constant
// for one threshold T.
// params: n, by, T, public, constant, 2^(61 - by) mod p, base of out.

@group(0) @binding(0) var<storage, read> params: array<u32>;
@group(0) @binding(1) var<storage, read_write> out: array<Fp>;
@group(0) @binding(2) var<storage, read> c: array<Fp>;
@group(0) @binding(3) var<storage, read> high: array<Fp>;
@group(0) @binding(4) var<storage, read> msb: array<Fp>;

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let n = params[0];
    let by = params[1];
    let threshold = vec2(params[2], params[3]);
    let share = vec2(params[4], params[5]);
    let constant = vec2(params[6], params[7]);
    let wrap = vec2(params[8], params[9]);
    for (var i = id.x; i < n; i += groups.x * 256u) {
        let c_i = c[i];
        let quotient = from_signed(shift_down(below(c_i, threshold), by));
        let weight = select(wrap, vec2(0u), top(c_i));
        let products = wide_add(wide_mul(quotient, share), wide_mul(weight, msb[i]));
        out[params[10] + i] = reduce(wide_add(products, sub(constant, high[i])));
    }
}
