#!/usr/bin/env python3
"""PyTorch's side of scripts/bench/workloads.lua, by the same names, with data in memory.

pip install torch
"""
import argparse
import functools
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


def lenet():
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10))


def cnn():
    return nn.Sequential(
        nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(9216, 128), nn.ReLU(), nn.Linear(128, 10))


class Block(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.c1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.b1 = nn.BatchNorm2d(outputs)
        self.c2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.b2 = nn.BatchNorm2d(outputs)
        self.short = None
        if stride != 1 or inputs != outputs:
            self.short = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x):
        y = self.b2(self.c2(F.relu(self.b1(self.c1(x)))))
        return F.relu(y + (self.short(x) if self.short else x))


def resnet20():
    layers, channels = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()], 16
    for outputs, stride in ((16, 1), (32, 2), (64, 2)):
        for i in range(3):
            layers.append(Block(channels, outputs, stride if i == 0 else 1))
            channels = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def colours(count):
    return torch.rand(count, 3, 32, 32), torch.randint(0, 10, (count,))


def adam(parameters):
    return torch.optim.Adam(parameters, 1e-3)


def sgd(parameters):
    return torch.optim.SGD(parameters, 0.01, momentum=0.9)


def seed(seconds):
    net = nn.Sequential(nn.Linear(2, 3), nn.Sigmoid(), nn.Linear(3, 1), nn.Sigmoid())
    x, y = torch.rand(100, 2), torch.randint(0, 2, (100, 1)).float()
    optimizer = torch.optim.SGD(net.parameters(), 0.01)

    def epoch():
        optimizer.zero_grad(set_to_none=True)
        F.mse_loss(net(x), y).backward()
        optimizer.step()

    return rate(epoch, seconds)


def train(seconds, net, data, count, make_optimizer):
    x, y = data(count)
    optimizer = make_optimizer(net.parameters())
    place = [0]

    def step():
        first = place[0] % (count // 64) * 64
        place[0] += 1
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(net(x[first:first + 64]), y[first:first + 64]).backward()
        optimizer.step()

    return 64 * rate(step, seconds)


def infer(seconds, net, data):
    x, _ = data(1)
    net.eval()
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
        "door-add-4": (addition, "us"),
    }
    for name, make, data, count, optimizer in (
        ("mlp", mlp, images, 20000, adam), ("lenet", lenet, images, 20000, sgd), ("cnn", cnn, images, 20000, adam),
        ("resnet20", resnet20, colours, 2048, sgd)):
        step = functools.partial(train, net=make(), data=data, count=count, make_optimizer=optimizer)
        work[name + "-train-b64"] = (step, "samples/s")
        work[name + "-infer-b1"] = (functools.partial(infer, net=make(), data=data), "us")
    for name in options.names or work:
        run, unit = work[name]
        print("%s\t%.2f\t%s" % (name, run(options.seconds), unit), flush=True)


main()
