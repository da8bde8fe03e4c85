"""What the peers share: options, images, rates, and the lines that they print."""
import argparse
import gzip
import os
import struct
import time

import numpy as np

FOLDER = os.environ.get("NNLUA_DATA", "/usr/share/datasets/fashion-mnist")


def options(description):
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=3, help="for each workload, warm-up apart")
    parser.add_argument("names", nargs="*", help="workloads; all of them if none is named")
    return parser


def idx(name):
    with gzip.open(os.path.join(FOLDER, name)) as file:
        (magic,) = struct.unpack(">I", file.read(4))
        shape = struct.unpack(">" + "I" * (magic & 255), file.read(4 * (magic & 255)))
        return np.frombuffer(file.read(), np.uint8).reshape(shape)


def images(count):
    """Images of one channel and their labels; random ones where the data set is absent."""
    try:
        x = idx("train-images-idx3-ubyte.gz")[:count, None].astype(np.float32) / 255
        return x, idx("train-labels-idx1-ubyte.gz")[:count].astype(np.int64)
    except OSError:
        rng = np.random.default_rng(1)
        return rng.random((count, 1, 28, 28), np.float32), rng.integers(0, 10, count)


def colours(count):
    rng = np.random.default_rng(1)
    return rng.random((count, 3, 32, 32), np.float32), rng.integers(0, 10, count)


def symbols(batch, steps, vocabulary=96):
    """64 batches of sequences, each one symbol longer than what is read of it."""
    return np.random.default_rng(2).integers(0, vocabulary, (64, batch, steps + 1))


def rate(step, seconds, finish=lambda: None):
    """Steps a second: the median of five windows after a warm-up.  finish waits for what is still under way."""
    for _ in range(5):
        step()
    finish()
    start = time.perf_counter()
    step()
    finish()
    count = max(3, int(seconds / 5 / max(time.perf_counter() - start, 1e-6)))
    rates = []
    for _ in range(5):
        start = time.perf_counter()
        for _ in range(count):
            step()
        finish()
        rates.append(count / (time.perf_counter() - start))
    return sorted(rates)[2]


def peak_memory():
    """The most that this process has had resident, in MB; None where the system does not say."""
    try:
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) / 1024 for line in file if line.startswith("VmHWM"))
    except OSError:
        return None


def ops(names):
    """Name, inputs and Python's text of the ops of ops.txt whose names begin as asked for."""
    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "ops.txt")) as file:
        rows = [[cell.strip() for cell in line.split("|")] for line in file if "|" in line and not line.startswith("#")]
    return [(name, inputs, code) for name, inputs, _, code in rows if not names or name.startswith(tuple(names))]


def run(workloads, names):
    """Prints name, value and unit of each; workloads: name -> (function that gives the value, unit)."""
    for name in names or workloads:
        if name not in workloads:
            continue
        measure, unit = workloads[name]
        print("%s\t%.2f\t%s" % (name, measure(), unit), flush=True)
        memory = peak_memory()
        if memory:
            print("%s/memory\t%.1f\tMB" % (name, memory), flush=True)
