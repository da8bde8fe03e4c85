#!/usr/bin/env python3
"""PyTorch's side of scripts/bench/workloads.lua, by the same names, with data in memory.

pip install torch
"""
import argparse
import gzip
import os
import struct
import time

import torch
import torch.nn as nn
import torch.nn.functional as F

FOLDER = os.environ.get("NNLUA_DATA", "/usr/share/datasets/fashion-mnist")


def idx(name):
    with gzip.open(os.path.join(FOLDER, name)) as file:
        (magic,) = struct.unpack(">I", file.read(4))
        shape = struct.unpack(">" + "I" * (magic & 255), file.read(4 * (magic & 255)))
        return torch.frombuffer(bytearray(file.read()), dtype=torch.uint8).reshape(shape)


def images(count):
    try:
        x = idx("train-images-idx3-ubyte.gz")[:count].float() / 255
        return x.unsqueeze(1), idx("train-labels-idx1-ubyte.gz")[:count].long()
    except OSError:
        return torch.rand(count, 1, 28, 28), torch.randint(0, 10, (count,))


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


def mlp():
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 10))


def seed(seconds):
    net = nn.Sequential(nn.Linear(2, 3), nn.Sigmoid(), nn.Linear(3, 1), nn.Sigmoid())
    x, y = torch.rand(100, 2), torch.randint(0, 2, (100, 1)).float()
    optimizer = torch.optim.SGD(net.parameters(), 0.01)

    def epoch():
        optimizer.zero_grad(set_to_none=True)
        F.mse_loss(net(x), y).backward()
        optimizer.step()

    return rate(epoch, seconds)


def train(seconds):
    x, y = images(20000)
    net = mlp()
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    place = [0]

    def step():
        first = place[0] % (20000 // 64) * 64
        place[0] += 1
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(net(x[first:first + 64]), y[first:first + 64]).backward()
        optimizer.step()

    return 64 * rate(step, seconds)


def infer(seconds):
    x, _ = images(1)
    net = mlp().eval()
    with torch.inference_mode():
        return 1e6 / rate(lambda: net(x), seconds)


def addition(seconds):
    a, b = torch.ones(4), torch.ones(4)

    def many():
        for _ in range(1000):
            a + b

    return 1e6 / (1000 * rate(many, seconds))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("names", nargs="*")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    work = {
        "seed-2-3-1": (seed, "epochs/s"),
        "mlp-train-b64": (train, "samples/s"),
        "mlp-infer-b1": (infer, "us"),
        "door-add-4": (addition, "us"),
    }
    for name in options.names or work:
        run, unit = work[name]
        print("%s\t%.2f\t%s" % (name, run(options.seconds), unit), flush=True)


main()
