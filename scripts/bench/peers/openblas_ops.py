#!/usr/bin/env python3
"""OpenBLAS's side of `make bench-ops`, through NumPy, whose wheels bring it: products without bias.

pip install numpy
"""
import numpy as np

import common


def main():
    parser = common.options(__doc__)
    parser.set_defaults(seconds=0.2)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    ops = {name: (inputs, code) for name, inputs, code in common.ops(options.names)}

    def prepare(name):
        inputs, code = ops[name]
        if "@" not in code:
            return None
        pairs = (text.split(":") for text in inputs.split())
        scope = {key: rng.random([int(size) for size in shape.split("x")], np.float32) for key, shape in pairs}
        return common.Work(eval("lambda: " + code, scope), "us")

    common.run(prepare, list(ops), options)


main()
