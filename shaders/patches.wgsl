// The words under a window at each of its places on images [batch, channels,
// rows, columns]: [batch, down, across, channels, size], zeros beyond the image.
// params: words, the first of them, channels, rows, columns, rows and columns of
// the window, its two strides, zeros above and left, places down and across.

@group(0) @binding(0) var<storage, read> params: array<u32>;
@group(0) @binding(1) var<storage, read_write> out: array<Fp>;
@group(0) @binding(2) var<storage, read> x: array<Fp>;

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let n = params[0];
    let channels = params[2];
    let rows = params[3];
    let columns = params[4];
    for (var word = id.x; word < n; word += groups.x * 256u) {
        var rest = params[1] + word;
        let dx = rest % params[6];
        rest /= params[6];
        let dy = rest % params[5];
        rest /= params[5];
        let channel = rest % channels;
        rest /= channels;
        let across = rest % params[12];
        rest /= params[12];
        let down = rest % params[11];
        let image = rest / params[11];
        // Left of or above the image the difference wraps, and is past its end too.
        let at_row = down * params[7] + dy - params[9];
        let at_column = across * params[8] + dx - params[10];
        var value = Fp(0u, 0u);
        if (at_row < rows && at_column < columns) {
            value = x[((image * channels + channel) * rows + at_row) * columns + at_column];
        }
        out[word] = value;
    }
}
