"""The networks of the workloads for jax_peer.py, as functions of parameters."""
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

RNG = np.random.default_rng(0)


# ---- layers: their parameters, and what they do

def channels_last(x):
    """Images are NHWC here: XLA computes them faster than NCHW."""
    return jnp.transpose(x, (0, 2, 3, 1))


def uniform(shape, fan_in):
    return jnp.asarray(RNG.uniform(-1, 1, shape).astype(np.float32) / np.sqrt(fan_in))


def dense(inputs, outputs, bias=True):
    layer = {"w": uniform((inputs, outputs), inputs)}
    if bias:
        layer["b"] = uniform((outputs,), inputs)
    return layer


def linear(p, x):
    return x @ p["w"] + p["b"] if "b" in p else x @ p["w"]


def kernel(inputs, outputs, size, bias=True):
    layer = {"w": uniform((size, size, inputs, outputs), inputs * size * size)}
    if bias:
        layer["b"] = uniform((outputs,), inputs * size * size)
    return layer


def conv(p, x, stride=1, padding=0):
    y = lax.conv_general_dilated(x, p["w"], (stride, stride), ((padding, padding),) * 2,
                                 dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return y + p["b"] if "b" in p else y


def max_pool(x):
    # As a reshape: the gradient of reduce_window is a slow scatter.
    n, h, w, c = x.shape
    return x.reshape(n, h // 2, 2, w // 2, 2, c).max((2, 4))


def layer_norm(p, x):
    mean = x.mean(-1, keepdims=True)
    var = jnp.square(x - mean).mean(-1, keepdims=True)
    return (x - mean) * lax.rsqrt(var + 1e-5) * p["w"] + p["b"]


def norm_parameters(width):
    return {"w": jnp.ones(width), "b": jnp.zeros(width)}


def batch_norm(p, stats, x, train):
    """The result, and the running statistics after it."""
    if train:
        mean = x.mean((0, 1, 2))
        var = jnp.square(x - mean).mean((0, 1, 2))
        count = x.size // x.shape[-1]
        stats = {"mean": 0.9 * stats["mean"] + 0.1 * mean, "var": 0.9 * stats["var"] + 0.1 * var * count / (count - 1)}
    else:
        mean, var = stats["mean"], stats["var"]
    return (x - mean) * (lax.rsqrt(var + 1e-5) * p["w"]) + p["b"], stats


# ---- models: parameters, state, and apply(parameters, state, x, train) -> output, state

def stateless(parameters, apply):
    return parameters, (), lambda p, state, x, train: (apply(p, x), state)


def seed():
    def apply(p, x):
        for layer in p:
            x = jax.nn.sigmoid(linear(layer, x))
        return x

    return stateless([dense(2, 3), dense(3, 1)], apply)


def head(p, x):
    """Linear layers with ReLU between them."""
    x = x.reshape(x.shape[0], -1)
    for layer in p[:-1]:
        x = jax.nn.relu(linear(layer, x))
    return linear(p[-1], x)


def mlp():
    return stateless([dense(784, 256), dense(256, 128), dense(128, 10)], head)


def lenet():
    def apply(p, x):
        x = max_pool(jax.nn.relu(conv(p["c1"], x, padding=2)))
        return head(p["head"], max_pool(jax.nn.relu(conv(p["c2"], x))))

    return stateless({"c1": kernel(1, 6, 5), "c2": kernel(6, 16, 5),
                      "head": [dense(400, 120), dense(120, 84), dense(84, 10)]}, apply)


def cnn():
    def apply(p, x):
        x = jax.nn.relu(conv(p["c2"], jax.nn.relu(conv(p["c1"], x))))
        return head(p["head"], max_pool(x))

    return stateless({"c1": kernel(1, 32, 3), "c2": kernel(32, 64, 3), "head": [dense(9216, 128), dense(128, 10)]}, apply)


def resnet20():
    def unit(inputs, outputs, size):
        return {"conv": kernel(inputs, outputs, size, bias=False), "norm": norm_parameters(outputs)}

    shapes, channels = [], 16
    for outputs, stride in ((16, 1), (32, 2), (64, 2)):
        for i in range(3):
            shapes.append((channels, outputs, stride if i == 0 else 1))
            channels = outputs
    parameters = {"stem": unit(3, 16, 3), "head": dense(64, 10), "blocks": []}
    for inputs, outputs, stride in shapes:
        block = {"1": unit(inputs, outputs, 3), "2": unit(outputs, outputs, 3)}
        if inputs != outputs:
            block["short"] = unit(inputs, outputs, 1)
        parameters["blocks"].append(block)
    state = jax.tree.map(lambda u: {"mean": jnp.zeros(u["norm"]["w"].shape), "var": jnp.ones(u["norm"]["w"].shape)},
                         {"stem": parameters["stem"], "blocks": parameters["blocks"]}, is_leaf=lambda node: "norm" in node)

    def apply(p, state, x, train):
        def run(unit, stats, x, stride, padding):
            return batch_norm(unit["norm"], stats, conv(unit["conv"], x, stride, padding), train)

        x, stem = run(p["stem"], state["stem"], x, 1, 1)
        x, blocks = jax.nn.relu(x), []
        for block, stats, (_, _, stride) in zip(p["blocks"], state["blocks"], shapes):
            after = {}
            y, after["1"] = run(block["1"], stats["1"], x, stride, 1)
            y, after["2"] = run(block["2"], stats["2"], jax.nn.relu(y), 1, 1)
            if "short" in block:
                x, after["short"] = run(block["short"], stats["short"], x, stride, 0)
            x = jax.nn.relu(x + y)
            blocks.append(after)
        return linear(p["head"], x.mean((1, 2))), {"stem": stem, "blocks": blocks}

    return parameters, state, apply


def lstm(p, carry, from_x):
    h, c = carry
    i, f, g, o = jnp.split(from_x + linear(p, h), 4, -1)
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    h = jax.nn.sigmoid(o) * jnp.tanh(c)
    return (h, c), h


def gru(p, h, from_x):
    (rx, zx, nx), (rh, zh, nh) = jnp.split(from_x, 3, -1), jnp.split(linear(p, h), 3, -1)
    z = jax.nn.sigmoid(zx + zh)
    h = (1 - z) * jnp.tanh(nx + jax.nn.sigmoid(rx + rh) * nh) + z * h
    return h, h


def char_rnn(cell, gates):
    def layer():
        return {"x": dense(256, gates * 256), "h": dense(256, gates * 256)}

    def apply(p, x):
        y = p["emb"][x].swapaxes(0, 1)
        zeros = jnp.zeros((y.shape[1], 256))
        for weights in p["layers"]:
            # The product with the inputs is one for all steps.
            _, y = lax.scan(functools.partial(cell, weights["h"]), (zeros, zeros) if cell is lstm else zeros,
                            linear(weights["x"], y))
        return linear(p["out"], y.swapaxes(0, 1))

    return stateless({"emb": uniform((96, 256), 1), "layers": [layer(), layer()], "out": dense(256, 96)}, apply)


def gpt(width, heads, layers, context):
    def block():
        return {"n1": norm_parameters(width), "n2": norm_parameters(width), "qkv": dense(width, 3 * width),
                "o": dense(width, width), "up": dense(width, 4 * width), "down": dense(4 * width, width)}

    def attend(q, k, v):
        steps = q.shape[2]
        scores = jnp.einsum("bhqd,bhkd->bhqk", q, k) / np.sqrt(width // heads)
        causal = jnp.tril(jnp.ones((steps, steps), bool))
        return jax.nn.softmax(jnp.where(causal, scores, -jnp.inf)) @ v

    def apply(p, x):
        batch, steps = x.shape
        x = p["tok"][x] + p["pos"][:steps]
        for b in p["blocks"]:
            q, k, v = (t.reshape(batch, steps, heads, width // heads).swapaxes(1, 2)
                       for t in jnp.split(linear(b["qkv"], layer_norm(b["n1"], x)), 3, -1))
            x = x + linear(b["o"], attend(q, k, v).swapaxes(1, 2).reshape(batch, steps, width))
            up = linear(b["up"], layer_norm(b["n2"], x))
            x = x + linear(b["down"], jax.nn.gelu(up, approximate=False))
        return linear(p["head"], layer_norm(p["norm"], x))

    return stateless({"tok": uniform((96, width), 1), "pos": uniform((context, width), 1),
                      "blocks": [block() for _ in range(layers)], "norm": norm_parameters(width),
                      "head": dense(width, 96, bias=False)}, apply)
