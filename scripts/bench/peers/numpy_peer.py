#!/usr/bin/env python3
"""NumPy's side of scripts/bench/workloads.lua: the 2-3-1 network with formulas, and an addition.

pip install numpy
"""
import numpy as np

import common


def network():
    rng = np.random.default_rng(0)
    x, y = rng.random((100, 2)), rng.integers(0, 2, (100, 1)).astype(float)
    p = [rng.random((2, 3)), np.zeros((1, 3)), rng.random((3, 1)), np.zeros((1, 1))]

    def sigmoid(z):
        return 1 / (1 + np.exp(-z))

    def epoch():
        w1, b1, w2, b2 = p
        h = sigmoid(x @ w1 + b1)
        o = sigmoid(h @ w2 + b2)
        d2 = (y - o) * o * (1 - o)
        d1 = d2 @ w2.T * h * (1 - h)
        w2 += h.T @ d2 * 0.01
        b2 += d2.sum(0, keepdims=True) * 0.01
        w1 += x.T @ d1 * 0.01
        b1 += d1.sum(0, keepdims=True) * 0.01

    return common.Work(epoch, "epochs/s")


def addition():
    a, b = np.ones(4, np.float32), np.ones(4, np.float32)

    def many():
        for _ in range(1000):
            a + b

    return common.Work(many, "us", 1000)


def main():
    options = common.options(__doc__).parse_args()
    # The formulas are NumPy's only way: they stand beside both of ours.
    common.run_workloads({"seed-2-3-1-formulas": network, "seed-2-3-1": network, "door-add-4": addition}, options)


main()
