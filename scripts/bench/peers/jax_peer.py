#!/usr/bin/env python3
"""JAX's side of scripts/bench/workloads.lua, by the same names: the whole step under jax.jit, on the CPU.

pip install jax
"""
import functools
import os

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import common
import jax_models as models


def sgd(lr, momentum):
    def update(p, g, state):
        if not momentum:
            return jax.tree.map(lambda p, g: p - lr * g, p, g), state
        state = jax.tree.map(lambda b, g: momentum * b + g, state, g)
        return jax.tree.map(lambda p, b: p - lr * b, p, state), state

    return (lambda p: jax.tree.map(jnp.zeros_like, p) if momentum else ()), update


def adam():
    def init(p):
        return jax.tree.map(jnp.zeros_like, p), jax.tree.map(jnp.zeros_like, p), jnp.zeros(())

    def update(p, g, state):
        m, v, steps = state
        steps = steps + 1
        m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, m, g)
        v = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, v, g)
        c1, c2 = 1 - 0.9 ** steps, 1 - 0.999 ** steps
        p = jax.tree.map(lambda p, m, v: p - 1e-3 / c1 * m / (jnp.sqrt(v / c2) + 1e-8), p, m, v)
        return p, (m, v, steps)

    return init, update


def cross_entropy(output, target):
    return -jnp.take_along_axis(jax.nn.log_softmax(output), target[..., None], -1).mean()


def mse(output, target):
    return jnp.square(output - target).mean()


def training(net, optimizer, loss, data, batch, unit, count=1):
    """Steps of training; batch(data, i): input and target of step i, taken out within the step."""
    parameters, state, apply = net
    init, update = optimizer

    # What the step replaces is given away, so that it may be overwritten.
    @functools.partial(jax.jit, donate_argnums=(0, 1, 2))
    def step(parameters, state, moments, data, i):
        x, y = batch(data, i)

        def value(p):
            output, after = apply(p, state, x, True)
            return loss(output, y), after

        gradient, state = jax.grad(value, has_aux=True)(parameters)
        parameters, moments = update(parameters, gradient, moments)
        return parameters, state, moments

    place, now = 0, (parameters, state, init(parameters))
    data = jax.tree.map(jnp.asarray, data)

    def run():
        nonlocal place, now
        now = step(*now, data, np.int32(place))
        place += 1

    return common.Work(run, unit, count, finish=lambda: jax.block_until_ready(now))


def seed():
    rng = np.random.default_rng(0)
    data = rng.random((100, 2), np.float32), rng.integers(0, 2, (100, 1)).astype(np.float32)
    return training(models.seed(), sgd(0.01, 0), mse, data, lambda data, i: data, "epochs/s")


def classify(make, data, count, optimizer):
    x, y = data(count)

    def batch(data, i):
        first = i % (count // 64) * 64
        return tuple(lax.dynamic_slice_in_dim(part, first, 64) for part in data)

    return training(make(), optimizer, cross_entropy, (models.channels_last(x), y), batch, "samples/s", 64)


def sequence(make, batch, steps):
    def take(data, i):
        symbols = data[i % 64]
        return symbols[:, :-1], symbols[:, 1:]

    data = common.symbols(batch, steps).astype(np.int32)
    return training(make(), adam(), cross_entropy, data, take, "tokens/s", batch * steps)


def infer(make, shape):
    parameters, state, apply = make()
    run = jax.jit(lambda p, state, x: apply(p, state, x, False)[0])
    x = models.channels_last(jnp.ones((1, *shape)))
    return common.Work(lambda: run(parameters, state, x).block_until_ready(), "us")


def main():
    options = common.options(__doc__).parse_args()
    os.environ["NPROC"] = str(options.threads)  # XLA makes its threads at the first computation
    jax.config.update("jax_platforms", "cpu")
    workloads = {"seed-2-3-1": seed}
    image, colour = (1, 28, 28), (3, 32, 32)
    for name, make, data, count, optimizer, shape in (
            ("mlp", models.mlp, common.images, 20000, adam(), image),
            ("lenet", models.lenet, common.images, 20000, sgd(0.01, 0.9), image),
            ("cnn", models.cnn, common.images, 20000, adam(), image),
            ("resnet20", models.resnet20, common.colours, 2048, sgd(0.01, 0.9), colour)):
        workloads[name + "-train-b64"] = functools.partial(classify, make, data, count, optimizer)
        workloads[name + "-infer-b1"] = functools.partial(infer, make, shape)
    for name, make, batch, steps in (
            ("lstm-train-b32-t64", lambda: models.char_rnn(models.lstm, 4), 32, 64),
            ("gru-train-b32-t64", lambda: models.char_rnn(models.gru, 3), 32, 64),
            ("gpt-train-b12-t64", lambda: models.gpt(128, 4, 4, 64), 12, 64),
            ("gpt-train-d384-b8-t256", lambda: models.gpt(384, 6, 6, 256), 8, 256)):
        workloads[name] = functools.partial(sequence, make, batch, steps)
    common.run_workloads(workloads, options)


main()
