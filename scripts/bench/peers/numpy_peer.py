#!/usr/bin/env python3
"""NumPy's side of scripts/bench/workloads.lua: the 2-3-1 network with formulas, and an addition.

pip install numpy
"""
import sys
import time

import numpy as np


def rate(step, seconds):
    for _ in range(5):
        step()
    start = time.perf_counter()
    step()
    count = max(3, int(seconds / 5 / max(time.perf_counter() - start, 1e-6)))
    rates = []
    for _ in range(5):
        start = time.perf_counter()
        for _ in range(count):
            step()
        rates.append(count / (time.perf_counter() - start))
    return sorted(rates)[2]


def network(seconds):
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

    return rate(epoch, seconds)


def addition(seconds):
    a, b = np.ones(4, np.float32), np.ones(4, np.float32)

    def many():
        for _ in range(1000):
            a + b

    return 1e6 / (1000 * rate(many, seconds))


seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 3
print("seed-2-3-1-formulas\t%.2f\tepochs/s" % network(seconds), flush=True)
print("door-add-4\t%.2f\tus" % addition(seconds), flush=True)
