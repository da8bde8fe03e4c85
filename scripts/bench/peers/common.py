"""What the peers share: options, images, rates, and the lines that they print."""
import argparse
import contextlib
import dataclasses
import gzip
import os
import struct
import sys
import time
from typing import Callable

import numpy as np

FOLDER = os.environ.get("NNLUA_DATA", "/usr/share/datasets/fashion-mnist")


def options(description):
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=3, help="for each workload, warm-up apart")
    parser.add_argument("--serve", action="store_true", help="take names from standard input, see sides.sh")
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


@dataclasses.dataclass
class Work:
    """What a benchmark repeats."""
    step: Callable
    unit: str  # "us": microseconds of one; anything else: how many in a second
    count: int = 1  # how many of what the unit counts are in a step
    finish: Callable = lambda: None  # waits for what is still under way
    scope: Callable = contextlib.nullcontext  # the context that steps run in


def window(work, count):
    """Steps a second over so many of them."""
    start = time.perf_counter()
    for _ in range(count):
        work.step()
    work.finish()
    return count / (time.perf_counter() - start)


def warm(work):
    """A first guess at the rate, after some steps that do not count."""
    for _ in range(5):
        work.step()
    work.finish()
    return window(work, 1)


def rate(work, seconds):
    """Steps a second: the median of five windows after a warm-up."""
    count = max(3, int(seconds / 5 * warm(work)))
    return sorted(window(work, count) for _ in range(5))[2]


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


def show(name, work, rate):
    """A line of four columns: name, figure, unit and the process's peak memory; of two where the work is lacking."""
    if work:
        count = work.count * rate
        memory = peak_memory()
        print("%s\t%.3f\t%s\t%s" % (name, 1e6 / count if work.unit == "us" else count, work.unit,
                                    "%.1f" % memory if memory else ""), flush=True)
    else:
        print("%s\t-" % name, flush=True)


def answer(prepare, seconds):
    """Answers each name on standard input with what one window gives."""
    current = None
    for line in sys.stdin:
        name = line.rstrip("\n")
        if name != current:
            current, work, speed = name, prepare(name), None
        if work:
            with work.scope():
                speed = speed or warm(work)
                count = max(1, int(seconds * speed))
                if count > 10:  # caches and threads come back
                    work.step()
                    work.finish()
                speed = window(work, count)
        show(name, work, speed)


def run(prepare, names, options):
    """Prints the figures of these names, or answers standard input; prepare(name): its Work, or None."""
    if options.serve:
        return answer(prepare, options.seconds)
    for name in names:
        work = prepare(name)
        if work:
            with work.scope():
                show(name, work, rate(work, options.seconds))


def run_workloads(workloads, options):
    """run() for functions that give the Work of each name."""
    unknown = set(options.names) - set(workloads)
    if unknown:
        sys.exit("there is no workload %s; there are %s" % (", ".join(sorted(unknown)), " ".join(workloads)))
    run(lambda name: workloads[name]() if name in workloads else None, options.names or list(workloads), options)
