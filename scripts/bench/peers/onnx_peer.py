#!/usr/bin/env python3
"""ONNX Runtime's side of the workloads of one sample in scripts/bench/workloads.lua, by the same names.

The better figure of one thread and of all, with inputs and results bound once.

pip install onnxruntime onnx
"""
import functools

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

import common


class Graph:
    """An ONNX graph put together node by node; weights are random."""

    def __init__(self, shape):
        self.shape, self.nodes, self.weights, self.rng = shape, [], [], np.random.default_rng(0)

    def weight(self, *shape, scale):
        name = "w%d" % len(self.weights)
        values = self.rng.uniform(-scale, scale, shape).astype(np.float32)
        self.weights.append(numpy_helper.from_array(values, name))
        return name

    def node(self, kind, *inputs, **attributes):
        name = "y%d" % len(self.nodes)
        self.nodes.append(helper.make_node(kind, inputs, [name], **attributes))
        return name

    def relu(self, x):
        return self.node("Relu", x)

    def linear(self, x, inputs, outputs):
        scale = inputs ** -0.5
        return self.node("Gemm", x, self.weight(outputs, inputs, scale=scale), self.weight(outputs, scale=scale), transB=1)

    def conv(self, x, inputs, outputs, size, stride=1, padding=0, norm=False):
        """A convolution with a bias, or with batch norm after it."""
        scale = (inputs * size * size) ** -0.5
        parts = [x, self.weight(outputs, inputs, size, size, scale=scale)]
        if not norm:
            parts.append(self.weight(outputs, scale=scale))
        y = self.node("Conv", *parts, kernel_shape=[size, size], strides=[stride, stride], pads=[padding] * 4)
        if not norm:
            return y
        # Scales and variances are those of a new network: ones.
        ones = [numpy_helper.from_array(np.full(outputs, value, np.float32), "n%d.%d" % (len(self.nodes), i))
                for i, value in enumerate((1, 0, 0, 1))]
        self.weights += ones
        return self.node("BatchNormalization", y, *[part.name for part in ones])

    def max_pool(self, x):
        return self.node("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])

    def model(self, y):
        describe = functools.partial(helper.make_tensor_value_info, elem_type=TensorProto.FLOAT)
        graph = helper.make_graph(self.nodes, "net", [describe("x", shape=[1, *self.shape])],
                                  [describe(y, shape=[1, 10])], self.weights)
        # Versions that runtimes of some years ago read too.
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def head(g, x, sizes):
    x = g.node("Flatten", x)
    for i in range(len(sizes) - 1):
        x = g.linear(x, sizes[i], sizes[i + 1])
        if i + 2 < len(sizes):
            x = g.relu(x)
    return g.model(x)


def mlp():
    return head(Graph((1, 28, 28)), "x", (784, 256, 128, 10))


def lenet():
    g = Graph((1, 28, 28))
    x = g.max_pool(g.relu(g.conv("x", 1, 6, 5, padding=2)))
    return head(g, g.max_pool(g.relu(g.conv(x, 6, 16, 5))), (400, 120, 84, 10))


def cnn():
    g = Graph((1, 28, 28))
    x = g.relu(g.conv(g.relu(g.conv("x", 1, 32, 3)), 32, 64, 3))
    return head(g, g.max_pool(x), (9216, 128, 10))


def resnet20():
    g, channels = Graph((3, 32, 32)), 16
    x = g.relu(g.conv("x", 3, 16, 3, padding=1, norm=True))
    for outputs, stride in ((16, 1), (32, 2), (64, 2)):
        for i in range(3):
            step = stride if i == 0 else 1
            y = g.relu(g.conv(x, channels, outputs, 3, step, 1, norm=True))
            y = g.conv(y, outputs, outputs, 3, 1, 1, norm=True)
            if channels != outputs:
                x = g.conv(x, channels, outputs, 1, step, norm=True)
            x, channels = g.relu(g.node("Add", y, x)), outputs
    return head(g, g.node("GlobalAveragePool", x), (64, 10))


def infer(make, options):
    model = make()
    shape = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    x, works = np.random.default_rng(1).random(shape, np.float32), []
    for threads in {1, options.threads}:
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads, settings.inter_op_num_threads = threads, 1
        settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        session = onnxruntime.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])
        binding = session.io_binding()
        binding.bind_cpu_input("x", x)
        binding.bind_ortvalue_output(session.get_outputs()[0].name,
                                     onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros((1, 10), np.float32)))
        run = functools.partial(session.run_with_iobinding, binding)
        works.append(common.Work(run, "us"))
    bests = [max(rates) for rates in zip(*([common.rate(work, 0.1) for work in works] for _ in range(10)))]
    return works[bests.index(max(bests))]


def main():
    options = common.options(__doc__).parse_args()
    common.run_workloads({make.__name__ + "-infer-b1": functools.partial(infer, make, options)
                          for make in (mlp, lenet, cnn, resnet20)}, options)


main()
