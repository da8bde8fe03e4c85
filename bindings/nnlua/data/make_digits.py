"""Makes digits-images.idx and digits-labels.idx beside this file: needs scikit-learn (1.9.1 was used)."""
import pathlib
import struct

import numpy
from sklearn.datasets import load_digits

here = pathlib.Path(__file__).parent
digits = load_digits()
for name, values in ("images", digits.images), ("labels", digits.target):
    data = values.astype(numpy.uint8)
    assert (data == values).all()
    head = struct.pack(f">BBBB{data.ndim}I", 0, 0, 8, data.ndim, *data.shape)
    (here / f"digits-{name}.idx").write_bytes(head + data.tobytes())
