"""Trains the two models of this example and exports them to ONNX, once.

    pip install numpy scikit-learn onnx
    python examples/digits/export.py            # from the repository's root

Writes examples/data/digits.csv, examples/digits/cnn.onnx and mlp.onnx. Trains on
the first 1437 rows in plain numpy, from a fixed seed and in double precision, so
the same versions write the same files (numpy 2.4.6, scikit-learn 1.9.1, onnx
1.23.2). The models take [batch, 1, 8, 8] with pixels divided by 16 and give ten
logits.
"""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits

HERE = Path(__file__).resolve().parent
TRAINED = 1437
EPOCHS, BATCH, RATE, DECAY = 60, 32, 2e-3, 1e-4


class Layer:
    """Layers without parameters keep these."""

    params, grads = [], []


class Dense(Layer):
    def __init__(self, rng, inner, out):
        self.params = [rng.normal(0, np.sqrt(2 / inner), (inner, out)), np.zeros(out)]

    def forward(self, x):
        self.x = x
        return x @ self.params[0] + self.params[1]

    def backward(self, g):
        self.grads = [self.x.T @ g, g.sum(0)]
        return g @ self.params[0].T

    def export(self, name):
        return [("Gemm", {}, [w.astype(np.float32) for w in self.params])]


class Conv(Layer):
    """3 × 3, one zero all around."""

    def __init__(self, rng, inner, out):
        self.params = [rng.normal(0, np.sqrt(2 / (9 * inner)), (out, inner, 3, 3)), np.zeros(out)]

    def forward(self, x):
        n, c, h, w = x.shape
        self.shape = x.shape
        x = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
        cols = [x[:, :, i : i + h, j : j + w] for i in range(3) for j in range(3)]
        self.cols = np.stack(cols, 2).transpose(0, 3, 4, 1, 2).reshape(n * h * w, c * 9)
        out = self.cols @ self.params[0].reshape(-1, c * 9).T + self.params[1]
        return out.reshape(n, h, w, -1).transpose(0, 3, 1, 2)

    def backward(self, g):
        n, c, h, w = self.shape
        g = g.transpose(0, 2, 3, 1).reshape(n * h * w, -1)
        self.grads = [(g.T @ self.cols).reshape(self.params[0].shape), g.sum(0)]
        cols = (g @ self.params[0].reshape(-1, c * 9)).reshape(n, h, w, c, 3, 3)
        x = np.zeros((n, c, h + 2, w + 2))
        for i in range(3):
            for j in range(3):
                x[:, :, i : i + h, j : j + w] += cols[..., i, j].transpose(0, 3, 1, 2)
        return x[:, :, 1:-1, 1:-1]

    def export(self, name):
        attributes = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
        return [("Conv", attributes, [w.astype(np.float32) for w in self.params])]


class Pool(Layer):
    """The greatest of 2 × 2."""

    def forward(self, x):
        n, c, h, w = x.shape
        self.shape = x.shape
        tiles = x.reshape(n, c, h // 2, 2, w // 2, 2).transpose(0, 1, 2, 4, 3, 5).reshape(n, c, h // 2, w // 2, 4)
        self.best = tiles.argmax(-1)
        return tiles.max(-1)

    def backward(self, g):
        n, c, h, w = self.shape
        tiles = (np.arange(4) == self.best[..., None]) * g[..., None]
        return tiles.reshape(n, c, h // 2, w // 2, 2, 2).transpose(0, 1, 2, 4, 3, 5).reshape(self.shape)

    def export(self, name):
        return [("MaxPool", {"kernel_shape": [2, 2], "strides": [2, 2]}, [])]


class Relu(Layer):
    def forward(self, x):
        self.kept = x > 0
        return x * self.kept

    def backward(self, g):
        return g * self.kept

    def export(self, name):
        return [("Relu", {}, [])]


class Flatten(Layer):
    def forward(self, x):
        self.shape = x.shape
        return x.reshape(len(x), -1)

    def backward(self, g):
        return g.reshape(self.shape)

    def export(self, name):
        return [("Flatten", {"axis": 1}, [])]


def forward(layers, x):
    for layer in layers:
        x = layer.forward(x)
    return x


def train(layers, x, y, rng):
    """Adam with weight decay on the cross-entropy of the softmax."""
    moments = {}
    step = 0
    for epoch in range(EPOCHS):
        rate = RATE * 0.5 * (1 + np.cos(np.pi * epoch / EPOCHS))
        for rows in np.array_split(rng.permutation(len(x)), len(x) // BATCH):
            logits = forward(layers, x[rows])
            p = np.exp(logits - logits.max(1, keepdims=True))
            p /= p.sum(1, keepdims=True)
            p[np.arange(len(rows)), y[rows]] -= 1
            g = p / len(rows)
            for layer in reversed(layers):
                g = layer.backward(g)
            step += 1
            for i, layer in enumerate(layers):
                for j, (w, dw) in enumerate(zip(layer.params, layer.grads)):
                    m, v = moments.get((i, j), (0, 0))
                    m, v = 0.9 * m + 0.1 * dw, 0.999 * v + 0.001 * dw * dw
                    moments[i, j] = m, v
                    w -= rate * ((m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.999**step)) + 1e-8) + DECAY * w)


def export(layers, name):
    nodes, weights, value = [], [], "pixels"
    parts = [(i, part) for i, layer in enumerate(layers) for part in layer.export(name)]
    for i, (op, attributes, params) in parts:
        label = f"{op.lower()}{i}"
        names = [f"{label}.{kind}" for kind, _ in zip(("weight", "bias"), params)]
        weights += [numpy_helper.from_array(w, n) for n, w in zip(names, params)]
        result = "logits" if i == len(layers) - 1 else f"{label}.out"
        nodes.append(helper.make_node(op, [value, *names], [result], name=label, **attributes))
        value = result
    shapes = [("pixels", ["batch", 1, 8, 8]), ("logits", ["batch", 10])]
    infos = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in shapes]
    graph = helper.make_graph(nodes, name, infos[:1], infos[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    (HERE / f"{name}.onnx").write_bytes(model.SerializeToString(deterministic=True))


def main():
    data = load_digits()
    table = np.column_stack([data.data, data.target]).astype(int)
    header = ",".join([f"pixel{r}{c}" for r in range(8) for c in range(8)] + ["label"])
    np.savetxt(HERE.parent / "data" / "digits.csv", table, fmt="%d", delimiter=",", header=header, comments="")
    x, y = data.data.reshape(-1, 1, 8, 8) / 16.0, data.target
    for name in ("cnn", "mlp"):
        rng = np.random.default_rng(2026)
        if name == "cnn":
            # The pool before the ReLU, which is the same and compares less.
            layers = [Conv(rng, 1, 8), Pool(), Relu(), Conv(rng, 8, 16), Pool(), Relu(), Flatten(), Dense(rng, 64, 10)]
        else:
            layers = [Flatten(), Dense(rng, 64, 48), Relu(), Dense(rng, 48, 10)]
        train(layers, x[:TRAINED], y[:TRAINED], rng)
        export(layers, name)
        right = forward(layers, x[TRAINED:]).argmax(1) == y[TRAINED:]
        print(f"{name}: {right.sum()} of {len(right)} right")


if __name__ == "__main__":
    main()
