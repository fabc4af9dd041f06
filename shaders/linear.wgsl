// out = constant + sum of k * x over T operands.
// params: n, -, constant, then the T coefficients (two words each).

@group(0) @binding(0) var<storage, read> params: array<u32>;
@group(0) @binding(1) var<storage, read_write> out: array<Fp>;
//: for t in 0..T {
@group(0) @binding(${t+2}) var<storage, read> x${t}: array<Fp>;
//: }

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let n = params[0];
    let constant = vec2(params[2], params[3]);
    //: for t in 0..T {
    let k${t} = vec2(params[4u + 2u * ${t}u], params[5u + 2u * ${t}u]);
    //: }
    for (var i = id.x; i < n; i += groups.x * 256u) {
        var sum = constant;
        //: for t in 0..T {
        sum = add(sum, scaled(k${t}, x${t}[i]));
        //: }
        out[i] = sum;
    }
}
