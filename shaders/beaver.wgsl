// out = c + e * (a + k * d) + d * b, elementwise: Beaver's combination with
// two multiplications, and a third only if k is neither 0 nor 1.
// params: n, -, k.

@group(0) @binding(0) var<storage, read> params: array<u32>;
@group(0) @binding(1) var<storage, read_write> out: array<Fp>;
@group(0) @binding(2) var<storage, read> c: array<Fp>;
@group(0) @binding(3) var<storage, read> d: array<Fp>;
@group(0) @binding(4) var<storage, read> e: array<Fp>;
@group(0) @binding(5) var<storage, read> a: array<Fp>;
@group(0) @binding(6) var<storage, read> b: array<Fp>;

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let n = params[0];
    let k = vec2(params[2], params[3]);
    // The share of 1 of most SPDZ slots: public, like the slot.
    let none = k.x == 0u && k.y == 0u;
    for (var i = id.x; i < n; i += groups.x * 256u) {
        let d_i = d[i];
        var left = a[i];
        if !none {
            left = add(left, scaled(k, d_i));
        }
        // Two raw products and a canonical word are below 3 * 2^61 + 2^23.
        let products = wide_add(wide_mul(e[i], left), wide_mul(d_i, b[i]));
        out[i] = reduce(wide_add(products, c[i]));
    }
}
