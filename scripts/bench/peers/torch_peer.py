#!/usr/bin/env python3
"""PyTorch's side of scripts/bench/workloads.lua, by the same names, with data in memory.

pip install torch numpy
"""
import functools

import torch
import torch.nn as nn
import torch.nn.functional as F

import common


# ---- models

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


class Residual(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.c1, self.b1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)
        self.c2, self.b2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs)
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
            layers.append(Residual(channels, outputs, stride if i == 0 else 1))
            channels = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


class CharRNN(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.emb, self.rnn, self.out = nn.Embedding(96, 256), kind(256, 256, 2, batch_first=True), nn.Linear(256, 96)

    def forward(self, x):
        return self.out(self.rnn(self.emb(x))[0])


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.n1, self.n2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.o = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        batch, steps, width = x.shape
        q, k, v = (t.reshape(batch, steps, self.heads, width // self.heads).transpose(1, 2)
                   for t in self.qkv(self.n1(x)).split(width, 2))
        a = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.o(a.transpose(1, 2).reshape(batch, steps, width))
        return x + self.down(F.gelu(self.up(self.n2(x))))


class GPT(nn.Module):
    def __init__(self, width, heads, layers, context):
        super().__init__()
        self.tok, self.pos = nn.Embedding(96, width), nn.Embedding(context, width)
        self.blocks = nn.Sequential(*[Block(width, heads) for _ in range(layers)])
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 96, bias=False)

    def forward(self, x):
        return self.head(self.norm(self.blocks(self.tok(x) + self.pos.weight[:x.shape[1]])))


# ---- what is measured

def adam(parameters):
    return torch.optim.Adam(parameters, 1e-3)


def sgd(parameters):
    return torch.optim.SGD(parameters, 0.01, momentum=0.9)


def training(net, optimizer, loss, batch, options):
    """A step of training; batch(i): input and target of step i, counted from 0."""
    run = torch.compile(net) if options.compile else net
    place = 0

    def step():
        nonlocal place
        x, y = batch(place)
        place += 1
        optimizer.zero_grad(set_to_none=True)
        loss(run(x), y).backward()
        optimizer.step()

    return step


def seed(options):
    net = nn.Sequential(nn.Linear(2, 3), nn.Sigmoid(), nn.Linear(3, 1), nn.Sigmoid())
    x, y = torch.rand(100, 2), torch.randint(0, 2, (100, 1)).float()
    return common.Work(training(net, torch.optim.SGD(net.parameters(), 0.01), F.mse_loss, lambda i: (x, y), options), "epochs/s")


def classify(make, data, optimizer, options):
    net = make()
    x, y = (torch.from_numpy(part) for part in data)

    def batch(i):
        first = i % (len(x) // 64) * 64
        return x[first:first + 64], y[first:first + 64]

    return common.Work(training(net, optimizer(net.parameters()), F.cross_entropy, batch, options), "samples/s", 64)


def sequence(make, batch, steps, options):
    net = make()
    data = torch.from_numpy(common.symbols(batch, steps))

    def loss(output, target):
        return F.cross_entropy(output.reshape(batch * steps, 96), target.reshape(batch * steps))

    step = training(net, adam(net.parameters()), loss, lambda i: (data[i % 64, :, :-1], data[i % 64, :, 1:]), options)
    return common.Work(step, "tokens/s", batch * steps)


def infer(make, shape, options):
    net, x = make().eval(), torch.rand(1, *shape)
    run = torch.compile(net) if options.compile else net
    return common.Work(lambda: run(x), "us", scope=torch.inference_mode)


def addition():
    a, b = torch.ones(4), torch.ones(4)

    def many():
        for _ in range(1000):
            a + b

    return common.Work(many, "us", 1000)


def main():
    parser = common.options(__doc__)
    parser.add_argument("--compile", action="store_true", help="through torch.compile")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    workloads = {"seed-2-3-1": lambda: seed(options)}
    for name, make, data, count, optimizer, shape in (
            ("mlp", mlp, common.images, 20000, adam, (1, 28, 28)),
            ("lenet", lenet, common.images, 20000, sgd, (1, 28, 28)),
            ("cnn", cnn, common.images, 20000, adam, (1, 28, 28)),
            ("resnet20", resnet20, common.colours, 2048, sgd, (3, 32, 32))):
        workloads[name + "-train-b64"] = lambda m=make, d=data, c=count, o=optimizer: classify(m, d(c), o, options)
        workloads[name + "-infer-b1"] = functools.partial(infer, make, shape, options)
    for name, make, batch, steps in (
            ("lstm-train-b32-t64", lambda: CharRNN(nn.LSTM), 32, 64),
            ("gru-train-b32-t64", lambda: CharRNN(nn.GRU), 32, 64),
            ("gpt-train-b12-t64", lambda: GPT(128, 4, 4, 64), 12, 64),
            ("gpt-train-d384-b8-t256", lambda: GPT(384, 6, 6, 256), 8, 256)):
        workloads[name] = functools.partial(sequence, make, batch, steps, options)
    workloads["door-add-4"] = addition
    common.run_workloads(workloads, options)


main()
