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
    for name, inputs, code in common.ops(options.names):
        if "@" not in code:
            continue
        pairs = (text.split(":") for text in inputs.split())
        scope = {key: rng.random([int(size) for size in shape.split("x")], np.float32) for key, shape in pairs}
        time = 1e6 / common.rate(eval("lambda: " + code, scope), options.seconds)
        print("%s\t%.3f\tus" % (name, time), flush=True)


main()
