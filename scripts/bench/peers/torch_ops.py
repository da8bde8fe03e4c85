#!/usr/bin/env python3
"""PyTorch's side of `make bench-ops`: microseconds of each op of ops.txt, as name, time and unit, tab-separated.

pip install torch numpy
"""
import functools
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
    parser.add_argument("--onednn", action="store_true", help="only what oneDNN computes on tensors of its own layouts")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    ops = {name: (inputs, code) for name, inputs, code in common.ops(options.names)}

    def prepare(name):
        inputs, code = ops[name]
        scope = {"torch": torch, "F": F, **dict(map(value, inputs.split()))}
        if options.onednn:
            convert = [key for key, x in scope.items() if torch.is_tensor(x) and x.dtype == torch.float32]
            if not convert or "!" in inputs:
                return None
            scope.update((key, scope[key].to_mkldnn()) for key in convert)
        work = common.Work(eval("lambda: " + code, scope), "us",
                           scope=functools.partial(torch.set_grad_enabled, "!" in inputs))
        try:
            with work.scope():
                work.step()
        except RuntimeError:
            if not options.onednn:
                raise
            return None
        return work

    common.run(prepare, list(ops), options)


main()
