"""Makes the files of this folder with the Python packages that other people write such files with:
numpy 2.4.6 and safetensors 0.8.0 were used.  spec/files_spec.lua knows what is in them."""
import pathlib

import numpy
from safetensors.numpy import save_file

here = pathlib.Path(__file__).parent

save_file(
    {
        "layers.0.weight": (numpy.arange(6, dtype="f4").reshape(2, 3) - 2.5) / 2,
        "layers.0.bias": numpy.array([0.1, -1e300], dtype="f8"),
        "ids": numpy.array([[-(2**63)], [2**63 - 1]], dtype="i8"),
        "small": numpy.array([-(2**31), 2**31 - 1], dtype="i4"),
        "bytes": numpy.array([0, 128, 255], dtype="u1"),
        "mask": numpy.array([[True, False, True]]),
        "scalar": numpy.array(2.5, dtype="f4"),
        "empty": numpy.zeros((2, 0, 3), dtype="f4"),
        "größe \"x\"\t名": numpy.array([7], dtype="u1"),
    },
    here / "python.safetensors",
    {"format": "np", "epoch": "3", "größe": "\"\\\n"},
)

save_file({"half": numpy.ones(3, dtype="f2")}, here / "half.safetensors")

grid = numpy.arange(6).reshape(2, 3) - 1
for name, array in {
    "f4": grid.astype("<f4") / 2,
    "f4-fortran": numpy.asfortranarray(grid.astype("<f4") / 2),
    "f8-big": grid.astype(">f8") / 2,
    "f2": numpy.array([1, -2, 0.5, 65504, 2.0**-24, numpy.inf], dtype="<f2"),
    "i1": grid.astype("i1"),
    "u2-big": numpy.array([0, 1, 65535], dtype=">u2"),
    "u4": numpy.array([0, 2**32 - 1], dtype="<u4"),
    "i8-fortran": numpy.asfortranarray((grid[:, :, None] * [1, 10]).astype("<i8")),
    "bool": grid > 0,
    "scalar": numpy.array(7, dtype="<i4"),
    "empty": numpy.zeros((0, 3), dtype="u1"),
}.items():
    numpy.save(here / f"{name}.npy", array)
for name, version in ("v2", (2, 0)), ("v3", (3, 0)):
    with open(here / f"{name}.npy", "wb") as file:
        numpy.lib.format.write_array(file, grid.astype("<i4"), version=version)
numpy.save(here / "object.npy", numpy.array([{}], dtype=object))
numpy.save(here / "record.npy", numpy.zeros(1, dtype=[("a", "<f4"), ("b", "<i4")]))
numpy.save(here / "u8.npy", numpy.zeros(1, dtype="<u8"))
