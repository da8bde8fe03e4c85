#!/usr/bin/env python3
"""PyTorch's side of `make bench-ops`: microseconds of each op of ops.txt, as name, time and unit, tab-separated.

pip install torch
"""
import os
import re

import torch
import torch.nn as nn
import torch.nn.functional as F

import common


def optimizer(name):
    net = nn.Sequential(nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 10))
    net(torch.rand(64, 784)).sum().backward()
    options = {"momentum": 0.9} if name == "SGD" else {}
    return getattr(torch.optim, name)(net.parameters(), lr=1e-3, **options).step


def value(text):
    """What an input of ops.txt describes: its name and value."""
    name, kind, rest = re.fullmatch(r"(\w+)([:@])(.+)", text).groups()
    if kind == "@":
        return name, optimizer(rest)
    sizes, mark = re.fullmatch(r"([\dx]+)(.*)", rest).groups()
    shape = [int(size) for size in sizes.split("x")]
    if mark.startswith("<"):
        return name, torch.randint(0, int(mark[1:]), shape)
    if mark == "+":
        return name, torch.rand(shape)
    if mark == "?":
        return name, torch.rand(shape) < 0.5
    return name, torch.randn(shape, requires_grad=mark == "!")


def main():
    parser = common.options(__doc__)
    parser.set_defaults(seconds=0.2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    with open(os.path.join(os.path.dirname(__file__), "..", "ops.txt")) as file:
        rows = [[cell.strip() for cell in line.split("|")] for line in file if "|" in line and not line.startswith("#")]
    for name, inputs, _, code in rows:
        if options.names and not name.startswith(tuple(options.names)):
            continue
        scope = {"torch": torch, "F": F, **dict(map(value, inputs.split()))}
        with torch.set_grad_enabled("!" in inputs):
            time = 1e6 / common.rate(eval("lambda: " + code, scope), options.seconds)
        print("%s\t%.3f\tus" % (name, time), flush=True)


main()
