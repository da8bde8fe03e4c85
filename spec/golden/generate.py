#!/usr/bin/env python3
"""Golden data from PyTorch for spec/golden_spec.lua.

    python3 generate.py [FAMILY ...]

Made with torch 2.15.0 and numpy 2.4 on the CPU; other versions of torch 2 give the same values within the
tolerances of the specs.  Writes FAMILY.safetensors (the numbers) and FAMILY.lua (the calls) beside this file;
spec/README.md says how a case is read.  Inputs are numbers that f32 can hold, results are computed and kept in
f64 unless the case is typed; positions in arguments and results are written as Lua counts them, from 1.
"""

import json
import math
import os
import struct
import sys
import warnings

import torch
import torch.nn.functional as F

PINNED = "2.15"
HERE = os.path.dirname(os.path.abspath(__file__))
DTYPE = {
    torch.float32: "F32",
    torch.float64: "F64",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
SIZE = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "U8": 1, "BOOL": 1}
inf, nan = math.inf, math.nan
f32, f64, i64, i32, u8, boolean = (torch.float32, torch.float64, torch.int64, torch.int32, torch.uint8, torch.bool)

torch.set_num_threads(1)
warnings.simplefilter("ignore")

# ---------------------------------------------------------------- drawing

generator = torch.Generator()


def U(*shape, lo=-2.0, hi=2.0, avoid=(), gap=0.1, dtype=f64):
    """Uniform numbers that f32 can hold, at least gap away from the values in avoid."""
    x = torch.rand(shape, generator=generator, dtype=f32).double() * (hi - lo) + lo
    for v in avoid:
        near = (x - v).abs() < gap
        x = torch.where(near, v + torch.where(x < v, -1.0, 1.0) * (gap + (x - v).abs()), x)
    return x.float().to(dtype)


def I(*shape, lo=0, hi=9, dtype=i64):
    return torch.randint(lo, hi + 1, shape, generator=generator).to(dtype)


def B(*shape):
    return torch.randint(0, 2, shape, generator=generator).bool()


def apart(*shape, lo=-2.0, hi=2.0):
    """All elements well separated: for max, sort, median."""
    n = math.prod(shape)
    x = torch.linspace(lo, hi, max(n, 2), dtype=f64)[:n].float().double()
    return x[torch.randperm(n, generator=generator)].reshape(shape)


def T(data, dtype=f64):
    return torch.tensor(data, dtype=dtype)


# ---------------------------------------------------------------- what stands in a case


class In:
    """A tensor argument.  layout: "t" a transposed, "s" a sliced view, "c" channels last; expand: repeated by expand(); pos: its
    values are positions, written counting from 1; grad: False asks for no gradient."""

    def __init__(self, x, layout=None, expand=None, pos=False, grad=True):
        self.x, self.layout, self.expand, self.pos = x, layout, expand, pos
        self.grad = grad and x.dtype in (f32, f64)


class Pos:
    """A result that holds positions."""

    def __init__(self, x):
        self.x = x


class Lua(str):
    """Lua source."""


def lua(v):
    if isinstance(v, Lua):
        return str(v)
    if v is None:
        return "nil"
    if isinstance(v, bool):
        return "true" if v else "false"
    if isinstance(v, int):
        return str(v)
    if isinstance(v, float):
        if v != v:
            return "0/0"
        if v in (inf, -inf):
            return "math.huge" if v > 0 else "-math.huge"
        return repr(v)
    if isinstance(v, str):
        return json.dumps(v)
    if isinstance(v, (list, tuple)):
        return "{" + ", ".join(lua(x) for x in v) + "}"
    if isinstance(v, dict):
        return (
            "{"
            + ", ".join(
                (f"{k} = " if k.isidentifier() and k not in ("end", "repeat", "in") else f"[{lua(k)}] = ") + lua(x)
                for k, x in v.items()
            )
            + "}"
        )
    raise TypeError(type(v))


def weights_of(shape, k):
    """The fixed r of sum(out * r): odd eighths, the same formula as in spec/helpers.lua."""
    n = math.prod(shape)
    i = torch.arange(n, dtype=f64)
    return ((2 * ((i * 7 + 3 * k) % 11) - 9) / 8).reshape(shape)


# torch differentiates these two with constants rounded to f32 (1/6, 1/alpha), which shows in f64.


def celu(x, alpha=1.0):
    return torch.where(x > 0, x, alpha * torch.expm1(torch.clamp(x, max=0) / alpha))


def hardsigmoid(x, inplace=False):
    return torch.clamp(x / 6 + 0.5, 0, 1)


F.hardsigmoid = hardsigmoid

# ---------------------------------------------------------------- a family


class Family:
    def __init__(self, name):
        self.name, self.tensors, self.known, self.cases = name, {}, {}, []

    def put(self, x):
        x = x.detach().contiguous()
        raw = x.numpy().tobytes()
        key = (DTYPE[x.dtype], tuple(x.shape), raw)
        if key not in self.known:
            self.known[key] = f"t{len(self.tensors) + 1}"
            self.tensors[self.known[key]] = key
        return self.known[key]

    def put_input(self, x, typed):
        """Float inputs of untyped cases are kept as f32: they are exactly that."""
        if x.dtype == f64 and not typed:
            assert torch.equal(x.float().double().nan_to_num(), x.nan_to_num()), "an input that f32 cannot hold"
            x = x.float()
        return self.put(x)

    # The case of a call op(args..., options); fn takes the tensors among args and gives torch's results.
    def case(
        self,
        op,
        args,
        fn,
        options=None,
        typed=False,
        rel=False,
        floor=0.0,
        grad=True,
        exact64=False,
        kind="op",
        note=None,
    ):
        leaves, written = [], []

        def write(a):
            if isinstance(a, torch.Tensor):
                a = In(a)
            if isinstance(a, In):
                x = a.x
                full = x.expand(a.expand) if a.expand else x
                leaf = full.clone().detach()
                if not typed and leaf.dtype == f32:
                    raise ValueError("f32 in an untyped case")
                leaf.requires_grad_(a.grad and grad and not typed and leaf.dtype == f64)
                leaves.append(leaf)
                item = {"t": self.put_input(x + 1 if a.pos else x, typed)}
                if a.layout:
                    item["layout"] = a.layout
                if a.expand:
                    item["expand"] = list(a.expand)
                leaf.item_ = item
                return item
            if isinstance(a, list) and a and isinstance(a[0], (torch.Tensor, In)):
                return {"list": [write(x) for x in a]}
            return a

        written = [write(a) for a in args]
        opts = {k: write(v) for k, v in options.items()} if options is not None else None

        def run(tensors):
            out = fn(*tensors)
            out = list(out) if isinstance(out, (tuple, list)) else [out]
            return [(o.x, True) if isinstance(o, Pos) else (o, False) for o in out]

        def pull(tensors, outs):
            flow = [(k, o) for k, (o, _) in enumerate(outs) if o.requires_grad]
            want = [t for t in tensors if t.requires_grad]
            if not flow or not want:
                return {}
            loss = sum((o * weights_of(o.shape, k)).sum() for k, o in flow)
            grads = torch.autograd.grad(loss, want, allow_unused=True)
            return {id(t): g for t, g in zip(want, grads) if g is not None}

        source = [l.double() if exact64 and l.is_floating_point() else l for l in leaves]
        outs = run(source)
        if exact64:
            outs = [(o.float() if o.is_floating_point() else o, p) for o, p in outs]
        grads = pull(leaves, outs)

        # The condition: how far results and gradients move when every input moves by one part in 10^8.
        # Errors are measured against |value| + this, the largest of the tensor.
        step, moved_out, moved_grad = 1e-8, [0.0] * len(outs), {}
        if not typed and not rel:
            for _ in range(4):
                moved = []
                for l in leaves:
                    m = l.detach()
                    if l.requires_grad:
                        sign = torch.randint(0, 2, m.shape, generator=generator).double() * 2 - 1
                        m = m * (1 + step * sign)
                    moved.append(m.requires_grad_(l.requires_grad))
                outs2 = run(moved)
                g2 = pull(moved, outs2)
                for k, ((a, _), (b, _)) in enumerate(zip(outs, outs2)):
                    if a.dtype == f64 and a.numel() and a.shape == b.shape:
                        d = (a - b).detach().abs()
                        d = d[d.isfinite()]
                        if d.numel():
                            moved_out[k] = max(moved_out[k], float(d.max()) / step)
                for l, m in zip(leaves, moved):
                    if id(l) in grads and id(m) in g2 and l.numel():
                        d = float((grads[id(l)] - g2[id(m)]).abs().max()) / step
                        moved_grad[id(l)] = max(moved_grad.get(id(l), 0.0), d)

        def largest(x):
            x = x.detach().abs()
            x = x[x.isfinite()]
            return float(x.max()) if x.numel() else 0.0

        def short(v):
            return float(f"{v:.3g}")

        results = []
        for k, (o, pos) in enumerate(outs):
            r = {"t": self.put(o + 1 if pos else o)}
            if o.is_floating_point() and not rel and o.numel():
                r["scale"] = short(largest(o) + moved_out[k])
            results.append(r)
        for l in leaves:
            g = grads.get(id(l))
            if g is not None and (g.numel() == 0 or bool((g != 0).any())):
                l.item_["grad"] = self.put(g)
                if g.numel():
                    # a derivative is often a difference of numbers near 1 (1 - tanh(x)^2): measured as r times 1
                    one = 1.375 if rel else 0.0
                    l.item_["scale"] = short(largest(g) + moved_grad.get(id(l), one))
        entry = {kind: str(op), "args": Lua(self.list_of(written)), "outputs": results}
        if opts is not None:
            entry["options"] = opts
        if typed:
            entry["typed"] = True
        if rel:
            entry["rel"] = True
        if floor:
            entry["floor"] = float(floor)
        if note:
            entry["note"] = note
        self.cases.append(entry)

    @staticmethod
    def list_of(items):
        """A list that may hold nils: n says how long it is."""
        body = ", ".join(lua(x) for x in items)
        return "{" + body + (", " if body else "") + f"n = {len(items)}" + "}"

    def add(self, entry):
        self.cases.append(entry)

    def module_case(self, name, args, net, inputs, options=None, mode=None, call=None):
        """A module with given parameters: results, gradients of inputs and of parameters.  call: options of the
        call itself."""
        net = net.double()
        state = {k: v.detach().clone() for k, v in net.state_dict().items()}
        items, leaves = [], []
        for x in inputs:
            a = x if isinstance(x, In) else In(x)
            leaf = a.x.clone().requires_grad_(a.grad)
            leaves.append(leaf)
            items.append({"t": self.put_input(a.x + 1 if a.pos else a.x, False)})
        outs = net(*leaves, **(call or {}))
        outs = [o for o in outs if o is not None] if isinstance(outs, tuple) else [outs]
        entry = {"module": name, "args": Lua(self.list_of(args))}
        if options is not None:
            entry["options"] = options
        scale = lambda v: float(f"{float(v.detach().abs().max()) * 4 + 1:.3g}") if v.numel() else 1.0
        flow = [(k, o) for k, o in enumerate(outs) if o.requires_grad]
        if flow:
            want = [l for l in leaves if l.requires_grad] + list(net.parameters())
            total = sum((o * weights_of(o.shape, k)).sum() for k, o in flow)
            grads = torch.autograd.grad(total, want, allow_unused=True)
            grads = [torch.zeros_like(w) if g is None else g for w, g in zip(want, grads)]
            for l, item in zip(leaves, items):
                if l.requires_grad:
                    g = grads.pop(0)
                    item["grad"], item["scale"] = self.put(g), scale(g)
            names = [n for n, _ in net.named_parameters()]
            entry["grads"] = {n: {"t": self.put(g), "scale": scale(g)} for n, g in zip(names, grads)}
        entry["inputs"] = items
        if call:
            entry["call"] = {k: {"t": self.put_input(v, False)} if isinstance(v, torch.Tensor) else v for k, v in call.items()}
        entry["outputs"] = [{"t": self.put(o), "scale": scale(o)} for o in outs]
        if state:
            entry["state"] = {k: self.put_input(v, False) for k, v in state.items()}
        if mode:
            entry["mode"] = mode
        self.add(entry)

    def write(self):
        header, offset, blobs = {}, 0, []
        # widest types first, so that every tensor is aligned
        for key, (dtype, shape, raw) in sorted(self.tensors.items(), key=lambda kv: (-SIZE[kv[1][0]], int(kv[0][1:]))):
            header[key] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, offset + len(raw)]}
            offset += len(raw)
            blobs.append(raw)
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        with open(os.path.join(HERE, self.name + ".safetensors"), "wb") as f:
            f.write(struct.pack("<Q", len(text)) + text + b"".join(blobs))
        with open(os.path.join(HERE, self.name + ".lua"), "w") as f:
            f.write(
                f"-- Made by generate.py with torch {torch.__version__.split('+')[0]}; numbers in {self.name}.safetensors.\n"
            )
            f.write("return {\n")
            for c in self.cases:
                f.write("  " + lua(c) + ",\n")
            f.write("}\n")
        print(f"{self.name}: {len(self.cases)} cases, {len(self.tensors)} tensors, {offset + len(text)} bytes")


# ---------------------------------------------------------------- elementwise: one input

SPECIAL = [0.0, -0.0, 1.0, -1.0, inf, -inf, nan, 0.5, -0.5, 2.0**-126, -(2.0**-126), 1e-20, 1e20, 3.0, -3.0, 1e-4]


def unary(fam, op, fn, lo, hi, avoid=(), args=(), floor=0.0, ints=True, grad=True, special=True):
    """The shapes and layouts of every function of one tensor."""
    key = (lo, hi, tuple(avoid))
    pool = unary.pool.setdefault(
        key,
        [
            U(3, 4, lo=lo, hi=hi, avoid=avoid),
            U(2, 3, 4, lo=lo, hi=hi, avoid=avoid),
            U(5, lo=lo, hi=hi, avoid=avoid),
            U(lo=lo, hi=hi, avoid=avoid),
            torch.zeros(0, 3, dtype=f64),
            U(1, 1, 37, lo=lo, hi=hi, avoid=avoid),
        ],
    )
    a, b, c, d, e, g = pool
    k = dict(rel=True, floor=floor, grad=grad)
    rest = list(args)
    fam.case(op, [a] + rest, fn, **k)
    fam.case(op, [In(b, layout="t")] + rest, fn, **k)
    fam.case(op, [In(c, layout="s")] + rest, fn, **k)
    fam.case(op, [d] + rest, fn, **k)
    fam.case(op, [e] + rest, fn, **k)
    fam.case(op, [g] + rest, fn, **k)
    if special:
        values = T(SPECIAL, f32)
        if fam.name == "activation":  # torch's x * sigmoid(x) and the like are NaN at infinity: not a thing to copy
            values = values[~(values.isinf() & fn(values.double()).isnan())]
        fam.case(op, [values] + rest, fn, typed=True, exact64=True, rel=True, note="special values")
    if ints:
        for x in unary.ints[ints]:
            fam.case(op, [x] + rest, fn, typed=True, rel=True, floor=floor)


unary.pool = {}
unary.ints = {
    True: [T([[1, 2, 3], [4, 5, 9]], i64), T([1, 0, 7], u8), T([True, False], boolean)],
    "number": [T([[1, -2, 3], [0, -5, 9]], i64), T([1, 0, 7], u8), T([-3, 4], i32)],
    "unit": [T([[1, 0, 1], [0, 1, 1]], i64), T([True, False], boolean)],
    "above": [T([[1, 2, 3], [4, 5, 9]], i64), T([1, 7, 2], i32)],
    "any": [T([[1, -2, 3], [0, -5, 9]], i64), T([1, 0, 7], u8), T([True, False], boolean)],
    "bits": [T([[1, -2, 3], [0, -5, 9]], i64), T([1, 0, 7], u8), T([True, False], boolean), T([-3, 4], i32)],
}


def elementwise():
    fam = Family("elementwise")
    for op, fn, lo, hi, more in [
        ("exp", torch.exp, -5, 5, {}),
        ("exp2", torch.exp2, -5, 5, {}),
        ("expm1", torch.expm1, -2, 2, {}),
        ("log", torch.log, 0.1, 9, {}),
        ("log2", torch.log2, 0.1, 9, {}),
        ("log10", torch.log10, 0.1, 9, {}),
        ("log1p", torch.log1p, -0.9, 9, {}),
        ("sqrt", torch.sqrt, 0.1, 9, {}),
        ("rsqrt", torch.rsqrt, 0.1, 9, {}),
        ("square", torch.square, -2, 2, dict(ints="number")),
        ("reciprocal", torch.reciprocal, -2, 2, dict(avoid=(0,), ints="above")),
        ("abs", torch.abs, -2, 2, dict(avoid=(0,), ints="number")),
        ("neg", torch.neg, -2, 2, dict(ints="number")),
        ("sign", torch.sign, -2, 2, dict(avoid=(0,), ints="number")),
        ("floor", torch.floor, -3, 3, dict(ints="number")),
        ("ceil", torch.ceil, -3, 3, dict(ints="number")),
        ("round", torch.round, -3, 3, dict(ints="number")),
        ("trunc", torch.trunc, -3, 3, dict(ints="number")),
        ("frac", torch.frac, -3, 3, dict(ints=False)),
        ("sin", torch.sin, -4, 4, dict(floor=0.1)),
        ("cos", torch.cos, -4, 4, dict(floor=0.1)),
        ("tan", torch.tan, -1.2, 1.2, {}),
        ("asin", torch.asin, -0.9, 0.9, dict(ints="unit")),
        ("acos", torch.acos, -0.9, 0.9, dict(ints="unit")),
        ("atan", torch.atan, -4, 4, {}),
        ("sinh", torch.sinh, -3, 3, {}),
        ("cosh", torch.cosh, -3, 3, {}),
        ("tanh", torch.tanh, -3, 3, {}),
        ("asinh", torch.asinh, -4, 4, {}),
        ("acosh", torch.acosh, 1.1, 9, dict(ints="above")),
        ("atanh", torch.atanh, -0.9, 0.9, dict(ints=False)),
        ("erf", torch.erf, -2, 2, {}),
        ("erfc", torch.erfc, -2, 2, {}),
    ]:
        unary(fam, op, fn, lo, hi, **more)
    fam.case(
        "round", [T([0.5, 1.5, 2.5, -0.5, -1.5, 0.49999997, 4194304.5, 1e30]).float().double()], torch.round, rel=True
    )
    for op, fn in [
        ("isnan", torch.isnan),
        ("isinf", torch.isinf),
        ("isfinite", torch.isfinite),
        ("logical_not", torch.logical_not),
    ]:
        unary(fam, op, fn, -2, 2, ints="any")
    for x in unary.ints["bits"]:
        fam.case("bitwise_not", [x], torch.bitwise_not, typed=True)
    x = U(3, 4)
    fam.case("clamp", [x, -0.5, 1.0], lambda x: x.clamp(-0.5, 1.0), rel=True)
    fam.case("clamp", [In(x, layout="t"), 0.25], lambda x: x.clamp(min=0.25), rel=True)
    fam.case("clamp", [x, None, 0.25], lambda x: x.clamp(max=0.25), rel=True)
    fam.case("clamp", [x], lambda x: x.clamp(max=-0.25), options=dict(max=-0.25), rel=True)
    fam.case("clamp", [U(), -0.5, 0.5], lambda x: x.clamp(-0.5, 0.5), rel=True)
    fam.case("clamp", [torch.zeros(0, 2, dtype=f64), -0.5, 0.5], lambda x: x.clamp(-0.5, 0.5), rel=True)
    fam.case("clamp", [T([1, -4, 9], i64), 0, 5], lambda x: x.clamp(0, 5), typed=True)
    fam.case("clamp", [T([nan, inf, -inf, 0.0], f32), -1.0, 5.0], lambda x: x.clamp(-1, 5), typed=True)
    bytes_, m = T([0, 5, 200], u8), T([True, False], boolean)
    for o in (dict(min=-1, max=300), dict(min=-1), dict(max=300), dict(min=-3, max=7)):
        fam.case("clamp", [bytes_], lambda x: x.clamp(**o), options=o, typed=True, note="bounds that u8 cannot hold")
    fam.case("clamp", [m, 0, 1], lambda x: x.clamp(0, 1), typed=True)
    fam.case("clamp", [m, T([True, True], boolean)], lambda x, a: x.clamp(a), typed=True)
    return fam


# ---------------------------------------------------------------- activations


def activation():
    fam = Family("activation")
    kinks = (0,)
    one = dict(floor=1.0, ints=False)
    for op, fn, args, avoid, more in [
        ("sigmoid", torch.sigmoid, [], (), {}),
        ("softsign", F.softsign, [], (), {}),
        ("relu", F.relu, [], kinks, dict(ints="number")),
        ("relu6", F.relu6, [], (0, 6), {}),
        ("leaky_relu", F.leaky_relu, [], kinks, {}),
        ("leaky_relu", lambda x: F.leaky_relu(x, 0.2), [0.2], kinks, {}),
        ("elu", F.elu, [], kinks, {}),
        ("elu", lambda x: F.elu(x, 1.3), [1.3], kinks, {}),
        ("selu", F.selu, [], kinks, {}),
        ("celu", celu, [], kinks, {}),
        ("celu", lambda x: celu(x, 0.7), [0.7], kinks, {}),
        ("softplus", F.softplus, [], (), {}),
        ("softplus", lambda x: F.softplus(x, 2.0, 5.0), [2.0, 5.0], (2.5,), {}),
        ("silu", F.silu, [], (), {}),
        ("gelu", F.gelu, [], (), {}),
        ("mish", F.mish, [], (), {}),
        ("hardsigmoid", F.hardsigmoid, [], (-3, 3), {}),
        ("hardtanh", F.hardtanh, [], (-1, 1), {}),
        ("hardtanh", lambda x: F.hardtanh(x, -0.5, 2.0), [-0.5, 2.0], (-0.5, 2), {}),
        ("hardswish", F.hardswish, [], (-3, 3), {}),
        ("hardshrink", F.hardshrink, [], (-0.5, 0.5), {}),
        ("hardshrink", lambda x: F.hardshrink(x, 0.8), [0.8], (-0.8, 0.8), {}),
        ("softshrink", F.softshrink, [], (-0.5, 0.5), {}),
        ("softshrink", lambda x: F.softshrink(x, 0.8), [0.8], (-0.8, 0.8), {}),
        ("tanhshrink", F.tanhshrink, [], (), {}),
        ("logsigmoid", F.logsigmoid, [], (), {}),
        ("threshold", lambda x: F.threshold(x, 0.3, -2.0), [0.3, -2.0], (0.3,), {}),
        ("gaussian", lambda x: torch.exp(-x * x), [], (), {}),
        ("binary_step", lambda x: (x >= 0).to(x.dtype), [], (), {}),
    ]:
        wide = 8 if op in ("sigmoid", "softplus", "logsigmoid", "hardsigmoid", "relu6", "hardswish") else 4
        own_special = op not in ("gaussian",) and not args
        unary(
            fam,
            op,
            fn,
            -wide,
            wide,
            avoid=avoid,
            args=args,
            special=own_special,
            **{**one, **more, "grad": op != "binary_step"},
        )
    x = U(3, 4, lo=-4, hi=4)
    fam.case(
        "gelu", [x], lambda x: F.gelu(x, approximate="tanh"), options=dict(approximate="tanh"), rel=True, floor=1.0
    )
    fam.case("gelu", [In(x, layout="t"), "tanh"], lambda x: F.gelu(x, approximate="tanh"), rel=True, floor=1.0)
    for op, fn in [("identity", lambda x: x.clone())]:
        fam.case(op, [x], fn)
    fam.case("dropout", [x, 0.3, False], lambda x: F.dropout(x, 0.3, False))
    fam.case("dropout", [x], lambda x: F.dropout(x, 0.0, True), options=dict(p=0.0))
    fam.case("dropout", [x], lambda x: x * 0, options=dict(p=1.0))
    fam.case("rrelu", [U(3, 4, avoid=(0,))], lambda x: F.rrelu(x, training=False))
    fam.case(
        "rrelu", [In(U(3, 4, avoid=(0,)), layout="t"), 0.1, 0.3, False], lambda x: F.rrelu(x, 0.1, 0.3, training=False)
    )
    for shape, ws in [((3, 4), 1), ((3, 4), 4), ((2, 3, 5), 3), ((4, 1), 1), ((7,), 1), ((0, 3), 3)]:
        fam.case("prelu", [U(*shape, avoid=(0,)), U(ws, lo=0.1, hi=0.5)], F.prelu)
    fam.case("prelu", [In(U(3, 4, avoid=(0,)), layout="t"), U(4, lo=-0.5, hi=0.5)], F.prelu)
    for shape, dim in [((3, 4), -1), ((4, 3), 0), ((2, 6, 3), 1), ((2,), 0), ((0, 4), 1)]:
        fam.case("glu", [U(*shape)] + ([] if dim == -1 else [dim + 1]), lambda x: F.glu(x, dim))
    fam.case("glu", [In(U(3, 4), layout="s")], F.glu)
    for op, fn in [("softmax", F.softmax), ("softmin", F.softmin), ("log_softmax", F.log_softmax)]:
        fam.case(op, [U(3, 4), 2], lambda x: fn(x, 1))
        fam.case(op, [U(3, 4), 1], lambda x: fn(x, 0))
        fam.case(op, [In(U(2, 3, 4), layout="t"), -2], lambda x: fn(x, -2))
        fam.case(op, [In(U(5, 7), layout="s"), -1], lambda x: fn(x, -1))
        fam.case(op, [U(2, 37, lo=-30, hi=30), 2], lambda x: fn(x, 1))
        fam.case(op, [U(1), 1], lambda x: fn(x, 0))
        fam.case(op, [U(), 1], lambda x: fn(x, 0))
        fam.case(op, [torch.zeros(0, 3, dtype=f64), 2], lambda x: fn(x, 1))
        fam.case(op, [torch.zeros(3, 0, dtype=f64), 2], lambda x: fn(x, 1))
        fam.case(op, [T([[1e4, 1e4 - 1, 0.0], [-1e4, -1e4, -1e4]]), 2], lambda x: fn(x, 1))
        if op != "softmin":
            fam.case(op, [T([[1.0, -inf, 0.0], [-inf, 2.0, -inf]], f32), 2], lambda x: fn(x, 1), typed=True)
    # maxout: the largest of `pieces` neighbours along a dimension (Goodfellow et al. 2013)
    fam.case("maxout", [apart(3, 8), 2], lambda x: x.reshape(3, 4, 2).amax(2))
    fam.case("maxout", [In(apart(3, 6), layout="t"), 3], lambda x: x.reshape(3, 2, 3).amax(2))
    fam.case("maxout", [apart(6, 3), 3, 1], lambda x: x.reshape(2, 3, 3).amax(1))
    for op, fn in [("softmax", F.softmax), ("softmin", F.softmin), ("log_softmax", F.log_softmax)]:
        o = dict(dtype=f64)
        fam.case(op, [U(3, 4), 2], lambda x: fn(x, 1, dtype=f64), options=dict(dtype="f64"))
        fam.case(op, [I(3, 4), 1], lambda x: fn(x, 0, **o), options=dict(dtype="f64"), typed=True)
    return fam


# ---------------------------------------------------------------- two and more inputs


def binary():
    fam = Family("binary")

    def pairs(
        op, fn, lo=-2.0, hi=2.0, avoid=(), lo2=None, hi2=None, avoid2=None, numbers=(1.5, 2), left=False, grad=True
    ):
        lo2, hi2 = lo if lo2 is None else lo2, hi if hi2 is None else hi2
        avoid2 = avoid if avoid2 is None else avoid2
        a = lambda *s: U(*s, lo=lo, hi=hi, avoid=avoid)
        b = lambda *s: U(*s, lo=lo2, hi=hi2, avoid=avoid2)
        k = dict(grad=grad, rel=False)
        fam.case(op, [a(3, 4), b(3, 4)], fn, **k)
        fam.case(op, [a(3, 1), b(4)], fn, **k)
        fam.case(op, [In(a(2, 3, 4), layout="t"), In(b(3, 4), layout="s")], fn, **k)
        fam.case(op, [a(), b(2, 3)], fn, **k)
        fam.case(op, [a(0, 4), b(1, 4)], fn, **k)
        fam.case(op, [In(a(1, 4), expand=(3, 4)), b(3, 4)], fn, **k)
        fam.case(op, [a(), b()], fn, **k)
        fam.case(op, [a(37), b(37)], fn, **k)
        for v in numbers:
            fam.case(op, [a(2, 3), v], lambda x: fn(x, torch.tensor(v, dtype=f64)), **k)
        if left:
            fam.case(op, [numbers[0], b(2, 3)], lambda x: fn(torch.tensor(numbers[0], dtype=f64), x), **k)

    def typed(op, fn, which, bools=True, exact=True):
        m = T([[1, -2, 3], [4, 5, -6]], i64)
        n = T([[2, 3, -2], [1, 2, 4]], i64)
        small, bytes_ = T([1, 2, 3], i32), T([1, 2, 3], u8)
        mask, x = T([True, False, True], boolean), T([0.5, -1.5, 2.5], f32)
        k = dict(typed=True)
        for a, b in [
            (m, n),
            (m, small),
            (bytes_, small),
            (m, x),
            (small, T([1.5, 2.5, -0.5], f64)),
            (x, T([0.25, -0.75, 1.25], f64)),
            (m, T(2.5, f32)),
            (bytes_, T(3, i64)),
            (x, T(2.5, f64)),
        ]:
            fam.case(op, [a, b], fn, **k)
        if bools:
            for a, b in [(mask, x), (small, mask)]:
                fam.case(op, [a, b], fn, **k)
        for v in which:
            fam.case(op, [m, v], lambda x: fn(x, v), **k)
            fam.case(op, [x, v], lambda x: fn(x, v), **k)
            fam.case(op, [bytes_, v], lambda x: fn(x, v), **k)

    for op, fn in [("add", torch.add), ("sub", torch.sub), ("mul", torch.mul)]:
        pairs(op, fn)
        typed(op, fn, (2, 2.5), bools=op != "sub")
    fam.case("add", [U(3, 4), U(4)], lambda a, b: torch.add(a, b, alpha=2.5), options=dict(alpha=2.5))
    fam.case("sub", [In(U(3, 4), layout="t"), U(4)], lambda a, b: torch.sub(a, b, alpha=-0.5), options=dict(alpha=-0.5))
    fam.case("add", [T([True, False, True], boolean), 2], lambda a: a + 2, typed=True)
    fam.case("add", [T([True, False, True], boolean), 2.5], lambda a: a + 2.5, typed=True)
    fam.case("mul", [T([True, False, True], boolean), T([True, True, False], boolean)], torch.mul, typed=True)
    fam.case("add", [T([[250, 10]], u8), T([10, 250], u8)], torch.add, typed=True, note="wraps around")
    pairs("div", torch.div, avoid2=(0,))
    typed("div", torch.div, (2, 2.5), bools=False)
    fam.case("div", [T([1.0, -1.0, 0.0, inf], f32), T([0.0, 0.0, 0.0, inf], f32)], torch.div, typed=True)
    for mode in ("floor", "trunc"):
        fam.case(
            "div",
            [U(3, 4, lo=-9, hi=9), U(4, lo=0.6, hi=2)],
            lambda a, b: torch.div(a, b, rounding_mode=mode),
            options=dict(rounding_mode=mode),
        )
        fam.case(
            "div",
            [T([7, -7, 9], i64), T([2, 2, -4], i64)],
            lambda a, b: torch.div(a, b, rounding_mode=mode),
            options=dict(rounding_mode=mode),
            typed=True,
        )
    for op, fn in [("floor_divide", torch.floor_divide), ("remainder", torch.remainder), ("fmod", torch.fmod)]:
        pairs(op, fn, lo=-9.0, hi=9.0, lo2=0.6, hi2=2.0, grad=op != "floor_divide")
        pairs(op, fn, lo=-9.0, hi=9.0, lo2=-2.0, hi2=-0.6, numbers=(-1.5,), grad=op != "floor_divide")
        typed(op, fn, (2, 2.5), bools=False)
        fam.case(op, [T([7, -7, 9, -9], i64), T([2, 2, -4, -4], i64)], fn, typed=True)
    pairs("pow", torch.pow, lo=0.3, hi=3.0, lo2=-2.0, hi2=2.0, numbers=(2.5, 2, 3, -1, 0.5), left=True)
    for v in (2, 3, -1, 0, 1, 2.0):
        fam.case("pow", [U(2, 3, avoid=(0,)), v], lambda x: torch.pow(x, v))
    fam.case("pow", [T([2, -3, 4], i64), 3], lambda x: x**3, typed=True)
    fam.case("pow", [T([2, -3, 4], i64), T([0, 2, 5], i64)], torch.pow, typed=True)
    fam.case("pow", [T([2, 3, 4], i64), 0.5], lambda x: x**0.5, typed=True)
    fam.case(
        "pow",
        [
            T([[0.0, 0.0, -2.0, inf, 1.0], [-8.0, nan, 2.0, 0.0, -1.0]], f32),
            T([[0.0, -1.0, 0.5, -1.0, nan], [3.0, 0.0, -inf, 2.0, inf]], f32),
        ],
        torch.pow,
        typed=True,
        exact64=True,
    )
    for op, fn in [("maximum", torch.maximum), ("minimum", torch.minimum)]:
        pairs(op, fn, numbers=())
        typed(op, fn, ())
        fam.case(op, [T([nan, 1.0, inf, -0.5], f32), T([0.0, nan, 1.0, -inf], f32)], fn, typed=True)
    pairs("atan2", torch.atan2, avoid=(0,), numbers=())
    fam.case("atan2", [T([0.0, 0.0, 1.0, -1.0, inf], f32), T([1.0, -1.0, 0.0, 0.0, inf], f32)], torch.atan2, typed=True)
    for op, fn in [
        ("eq", torch.eq),
        ("ne", torch.ne),
        ("lt", torch.lt),
        ("le", torch.le),
        ("gt", torch.gt),
        ("ge", torch.ge),
    ]:
        pairs(op, fn, numbers=(0.5, 0))
        typed(op, fn, (2, 2.5))
        fam.case(op, [T([nan, 1.0, inf, 2.0], f32), T([nan, 1.0, inf, 3.0], f32)], fn, typed=True)
    for op, fn in [
        ("logical_and", torch.logical_and),
        ("logical_or", torch.logical_or),
        ("logical_xor", torch.logical_xor),
    ]:
        for a, b in [
            (B(3, 4), B(4)),
            (B(), B(2)),
            (T([0, 1, 2], i64), T([0.0, 0.5, 0.0], f32)),
            (B(0, 2), B(2)),
            (T([nan, 0.0], f32), T([1, 1], u8)),
        ]:
            fam.case(op, [a, b], fn, typed=True)
        fam.case(op, [In(B(3, 4), layout="t"), In(B(3, 4), layout="s")], fn, typed=True)
    for op, fn in [
        ("bitwise_and", torch.bitwise_and),
        ("bitwise_or", torch.bitwise_or),
        ("bitwise_xor", torch.bitwise_xor),
    ]:
        for a, b in [
            (B(3, 4), B(4)),
            (I(3, 4), I(4)),
            (I(3, dtype=u8), I(3, dtype=i32)),
            (I(0, 2), I(2)),
            (I(3), B(3)),
        ]:
            fam.case(op, [a, b], fn, typed=True)
        fam.case(op, [I(3), 5], lambda x: fn(x, 5), typed=True)
    fam.case("where", [B(3, 4), U(3, 4), U(3, 4)], torch.where)
    fam.case("where", [B(3, 1), U(4), U(3, 4)], torch.where)
    fam.case("where", [In(B(3, 4), layout="t"), In(U(3, 4), layout="s"), U()], torch.where)
    fam.case("where", [B(3, 4), U(3, 4), 1.5], lambda c, x: torch.where(c, x, 1.5))
    fam.case("where", [B(3, 4), 0, U(3, 4)], lambda c, x: torch.where(c, 0.0, x))
    fam.case("where", [B(0, 4), U(4), U(1)], torch.where)
    fam.case("where", [B(3), I(3), T([0.5, 1.5, 2.5], f32)], torch.where, typed=True)
    fam.case("lerp", [U(3, 4), U(3, 4), U(3, 4, lo=0, hi=1)], torch.lerp)
    fam.case("lerp", [U(3, 4), U(4), 0.3], lambda a, b: torch.lerp(a, b, 0.3))
    fam.case("lerp", [In(U(3, 4), layout="t"), U(1, 4), U(3, 1)], torch.lerp)
    fam.case("lerp", [U(), U(), 0.75], lambda a, b: torch.lerp(a, b, 0.75))
    fam.case("addcmul", [U(3, 4), U(3, 1), U(4)], lambda a, b, c: torch.addcmul(a, b, c))
    fam.case(
        "addcmul",
        [U(3, 4), In(U(3, 4), layout="t"), U()],
        lambda a, b, c: torch.addcmul(a, b, c, value=-0.5),
        options=dict(value=-0.5),
    )
    fam.case("addcmul", [U(0, 4), U(4), U(4)], lambda a, b, c: torch.addcmul(a, b, c))
    fam.case("addcdiv", [U(3, 4), U(3, 1), U(4, avoid=(0,), gap=0.5)], lambda a, b, c: torch.addcdiv(a, b, c))
    fam.case(
        "addcdiv",
        [U(3, 4), In(U(3, 4), layout="t"), U(avoid=(0,), gap=0.5)],
        lambda a, b, c: torch.addcdiv(a, b, c, value=-0.5),
        options=dict(value=-0.5),
    )
    lo, hi = U(4, lo=-1, hi=-0.5), U(3, 1, lo=0.5, hi=1)
    fam.case("clamp", [U(3, 4), lo, hi], lambda x, a, b: torch.clamp(x, a, b))
    fam.case("clamp", [U(3, 4), None, hi], lambda x, b: torch.clamp(x, max=b))

    # Lua's operators
    x, y, p = U(3, 4), U(4, avoid=(0,)), U(3, 4, lo=0.3, hi=3)
    for source, fn in [
        ("x + y", lambda x, y: x + y),
        ("x - y", lambda x, y: x - y),
        ("x * y", lambda x, y: x * y),
        ("x / y", lambda x, y: x / y),
    ]:
        fam.case(Lua(source), [x, In(y, layout="s")], fn, kind="expression")
    for source, fn in [
        ("x + 1", lambda x: x + 1),
        ("1.5 - x", lambda x: 1.5 - x),
        ("2 * x", lambda x: 2 * x),
        ("2 / x", lambda x: 2 / x),
        ("x / 4", lambda x: x / 4),
        ("x ^ 2", lambda x: x**2),
        ("x ^ -0.5", lambda x: x**-0.5),
        ("2 ^ x", lambda x: 2**x),
        ("-x", lambda x: -x),
        ("x % 0.7", lambda x: x % 0.7),
    ]:
        fam.case(Lua(source), [p], fn, kind="expression")
    fam.case(Lua("x // y"), [x, y], lambda x, y: x // y, kind="expression", grad=False)
    fam.case(Lua("x % y"), [x, y], lambda x, y: x % y, kind="expression")
    fam.case(Lua("7 // x"), [p], lambda x: 7 // x, kind="expression", grad=False)
    fam.case(Lua("7 % x"), [p], lambda x: 7 % x, kind="expression", grad=False)
    i, j = T([7, -7, 9, -4], i64), T([2, 2, -4, 3], i64)
    for source, fn in [
        ("x + y", lambda x, y: x + y),
        ("x // y", lambda x, y: x // y),
        ("x % y", lambda x, y: x % y),
        ("x / y", lambda x, y: x / y),
    ]:
        fam.case(Lua(source), [i, j], fn, kind="expression", typed=True)
    for source, fn in [
        ("1 - x", lambda x: 1 - x),
        ("x * 2.5", lambda x: x * 2.5),
        ("x // 2", lambda x: x // 2),
        ("x % -3", lambda x: x % -3),
        ("x ^ 2", lambda x: x**2),
        ("-x", lambda x: -x),
    ]:
        fam.case(Lua(source), [i], fn, kind="expression", typed=True)
    m, n = B(3, 4), B(4)
    for source, fn in [("x & y", lambda x, y: x & y), ("x | y", lambda x, y: x | y), ("x ~ y", lambda x, y: x ^ y)]:
        fam.case(Lua(source), [m, n], fn, kind="expression", typed=True)
    fam.case(Lua("~x"), [m], lambda x: ~x, kind="expression", typed=True)
    tenths = torch.arange(11, dtype=f32) / 10
    for x in (tenths, tenths.double(), torch.arange(-10, 11).double() / 10):
        fam.case("floor_divide", [x, 0.1], lambda x: torch.floor_divide(x, 0.1), typed=True, note="quotients that round")
        fam.case(
            "div",
            [x, 0.1],
            lambda x: torch.div(x, 0.1, rounding_mode="floor"),
            options=dict(rounding_mode="floor"),
            typed=True,
        )
    a, b = T([1, -1, nan, inf, 3e38, -0.1, 1, -1, 0, 5, -5], f32), T([0, 0, 1, 2, 1e-5, 1e30, inf, inf, -3, -2.5, 2], f32)
    fam.case("floor_divide", [a, b], torch.floor_divide, typed=True)
    m = T([True, False], boolean)
    for op in ("floor_divide", "remainder", "fmod", "pow"):
        fn = getattr(torch, op)
        for y in (T([2, 3], i64), T([0.75, 1.5], f32), T([1, 2], u8)):
            fam.case(op, [m, y], fn, typed=True)
        fam.case(op, [m, 2], lambda x: fn(x, 2), typed=True)
        fam.case(op, [T([7, 2], i32), T([True, True], boolean)], fn, typed=True)
    for t in (T([1, 2, 200], u8), T([-3, 7, 2], i32), T([True, True], boolean)):
        for v in (-3, 300, -0.5):
            fam.case("div", [t, v], lambda x: x / v, typed=True, note="numbers that the type cannot hold")
            fam.case(Lua(f"{v} / x"), [t], lambda x: v / x, kind="expression", typed=True)
    fam.case("atan2", [T([0.0, 0.0, 2.0]), T([0.0, -1.0, 0.0])], torch.atan2, note="no slope at the origin")
    steps = T([-2.0, -1.0, 0.0, 1.0, 2.0])
    for o in (dict(min=-1, max=1), dict(min=-1), dict(max=1), dict(min=1, max=-1)):
        fam.case("clamp", [steps], lambda x: x.clamp(**o), options=o, note="at the bounds")
    for lo, hi in [(T([-1.0] * 5), T([1.0] * 5)), (T([1.0] * 5), T([-1.0] * 5))]:
        fam.case("clamp", [steps, lo, hi], torch.clamp, note="at the bounds")
    fam.case("clamp", [steps, None, T([1.0] * 5)], lambda x, b: torch.clamp(x, max=b), note="at the bounds")
    fam.case("clamp", [steps, T([-1.0] * 5)], lambda x, b: torch.clamp(x, min=b), note="at the bounds")
    return fam


# ---------------------------------------------------------------- reductions


def reduce():
    fam = Family("reduce")
    x, y, z = U(3, 4), U(2, 3, 4), U(5, 37)
    empty = torch.zeros(3, 0, dtype=f64)

    def dims(op, fn, a=x, b=y, c=z, empty_ok=True):
        """fn(x, dim, keepdim)"""
        fam.case(op, [a], lambda t: fn(t, None, False))
        fam.case(op, [a, 1], lambda t: fn(t, 0, False))
        fam.case(op, [b, [1, 3]], lambda t: fn(t, (0, 2), False))
        fam.case(op, [In(b, layout="t"), -1], lambda t: fn(t, -1, True), options=dict(keepdim=True))
        fam.case(op, [In(b, layout="s"), [2, 3]], lambda t: fn(t, (1, 2), True), options=dict(keepdim=True))
        fam.case(op, [c, 2], lambda t: fn(t, 1, False))
        fam.case(op, [In(U(1, 4, lo=0.2), expand=(3, 4)), 1], lambda t: fn(t, 0, False))
        if empty_ok:
            fam.case(op, [empty, 2], lambda t: fn(t, 1, False))
            fam.case(op, [torch.zeros(0, 3, dtype=f64), 2], lambda t: fn(t, 1, False))

    dims("sum", lambda t, d, k: t.sum(d, keepdim=k) if d is not None else t.sum())
    dims("mean", lambda t, d, k: t.mean(d, keepdim=k) if d is not None else t.mean())
    for op in ("sum", "mean"):
        fn = getattr(torch, op)
        fam.case(op, [U()], fn)
        fam.case(op, [torch.zeros(0, dtype=f64)], fn)
        fam.case(op, [U(1000)], fn)
        fam.case(op, [U(130, 9), 1], lambda t: fn(t, 0))
    for t in (I(3, 4), I(3, 4, dtype=u8), I(3, 4, dtype=i32), B(3, 4)):
        fam.case("sum", [t], torch.sum, typed=True)
        fam.case("sum", [t, 2], lambda t: t.sum(1), typed=True)
    fam.case("mean", [I(3, 4), 1], lambda t: t.float().mean(0), typed=True, note="integers give f32")
    fam.case("prod", [x], torch.prod)
    fam.case("prod", [x, 2], lambda t: t.prod(1))
    fam.case("prod", [In(y, layout="t"), -2], lambda t: t.prod(-2, keepdim=True), options=dict(keepdim=True))
    fam.case("prod", [T([[1.5, 0.0, 2.0], [0.0, 3.0, 0.0], [2.0, 0.5, -1.0]]), 2], lambda t: t.prod(1), note="zeros")
    fam.case("prod", [U()], torch.prod)
    fam.case("prod", [torch.zeros(0, dtype=f64)], torch.prod)
    fam.case("prod", [I(3, 4, lo=1, hi=4)], torch.prod, typed=True)
    fam.case("prod", [I(3, 4, lo=1, hi=4, dtype=u8), 1], lambda t: t.prod(0), typed=True)
    for op, fn in [("var", torch.var), ("std", torch.std)]:
        fam.case(op, [x], lambda t: fn(t))
        fam.case(op, [x, 2], lambda t: fn(t, 1))
        fam.case(op, [y, [1, 3]], lambda t: fn(t, (0, 2)))
        fam.case(op, [In(y, layout="t"), -1], lambda t: fn(t, -1, keepdim=True), options=dict(keepdim=True))
        fam.case(op, [In(y, layout="s"), 2], lambda t: fn(t, 1, correction=0), options=dict(correction=0))
        fam.case(op, [z], lambda t: fn(t, correction=2), options=dict(correction=2))
        fam.case(op, [U(50, lo=1000, hi=1001)], lambda t: fn(t), note="far from 0")
        fam.case(op, [U(3, 1), 2], lambda t: fn(t, 1), grad=False, note="of one element")
    positive = U(3, 4, avoid=(0,))
    fam.case("norm", [positive], lambda t: torch.norm(t))
    fam.case("norm", [positive, 2, 1], lambda t: torch.norm(t, 2, 0))
    fam.case("norm", [positive, 1], lambda t: torch.norm(t, 1))
    fam.case("norm", [positive, 1, 2], lambda t: torch.norm(t, 1, 1))
    fam.case("norm", [apart(3, 4, lo=0.5, hi=3), inf, 2], lambda t: torch.norm(t, inf, 1))
    fam.case("norm", [apart(3, 4, lo=0.5, hi=3), -inf, 2], lambda t: torch.norm(t, -inf, 1))
    fam.case("norm", [positive, 3, [1, 2]], lambda t: torch.norm(t, 3, (0, 1)))
    fam.case("norm", [positive, 1.5, 2], lambda t: torch.norm(t, 1.5, 1))
    fam.case("norm", [T([[0.0, 1.0, 2.0]]), 0], lambda t: torch.norm(t, 0), grad=False)
    fam.case(
        "norm",
        [In(U(2, 3, 4), layout="t"), 2, [1, 3]],
        lambda t: torch.norm(t, 2, (0, 2), keepdim=True),
        options=dict(keepdim=True),
    )
    fam.case("norm", [torch.zeros(0, 3, dtype=f64)], lambda t: torch.norm(t))
    fam.case("norm", [U()], lambda t: torch.norm(t))
    fam.case("norm", [torch.zeros(2, 2, dtype=f64)], lambda t: torch.norm(t), note="gradient 0 at 0")
    s3, s4, s5 = apart(2, 3, 4), apart(3, 4), apart(5, 37)
    for op, fn in [("max", torch.max), ("min", torch.min)]:
        both = lambda r: [r.values, Pos(r.indices)]
        fam.case(op, [s4], lambda t: fn(t))
        fam.case(op, [s4, 1], lambda t: both(fn(t, 0)))
        fam.case(op, [In(s3, layout="t"), -2], lambda t: both(fn(t, -2, keepdim=True)), options=dict(keepdim=True))
        fam.case(op, [In(s3, layout="s"), 3], lambda t: both(fn(t, 2)))
        fam.case(op, [s5, 2], lambda t: both(fn(t, 1)))
        fam.case(op, [s5], lambda t: fn(t))
        fam.case(op, [U()], lambda t: fn(t))
        fam.case(op, [torch.zeros(0, 3, dtype=f64), 2], lambda t: both(fn(t, 1)))
        fam.case(op, [T([[3, 1, 2], [9, 8, 7]], i64), 2], lambda t: both(fn(t, 1)), typed=True)
        fam.case(op, [T([3, 1, 2], u8)], lambda t: fn(t), typed=True)
        fam.case(
            op, [T([[1.0, nan, 2.0], [5.0, inf, -inf]], f32), 2], lambda t: both(fn(t, 1)), typed=True, note="NaN wins"
        )
    for op, fn in [("argmax", torch.argmax), ("argmin", torch.argmin)]:
        fam.case(op, [s4], lambda t: Pos(fn(t)))
        fam.case(op, [s4, 1], lambda t: Pos(fn(t, 0)))
        fam.case(op, [In(s3, layout="t"), -2], lambda t: Pos(fn(t, -2, keepdim=True)), options=dict(keepdim=True))
        fam.case(op, [In(s3, layout="s"), 2], lambda t: Pos(fn(t, 1)))
        fam.case(op, [In(s3, layout="t")], lambda t: Pos(fn(t)))
        fam.case(op, [U()], lambda t: Pos(fn(t)))
        fam.case(op, [T([[3, 1, 2], [9, 8, 7]], i64), 1], lambda t: Pos(fn(t, 0)), typed=True)
        fam.case(
            op,
            [T([[1.0, nan, 2.0], [2.0, 2.0, 1.0]], f32), 2],
            lambda t: Pos(fn(t, 1)),
            typed=True,
            note="NaN wins, the first of equals",
        )
    m = T([[True, False, True], [False, False, False], [True, True, True]], boolean)
    for op, fn in [("any", torch.any), ("all", torch.all)]:
        fam.case(op, [m], lambda t: fn(t), typed=True)
        fam.case(op, [m, 2], lambda t: fn(t, 1), typed=True)
        fam.case(op, [In(m, layout="t"), 2], lambda t: fn(t, 1, keepdim=True), options=dict(keepdim=True), typed=True)
        fam.case(op, [In(B(2, 3, 4), layout="s"), [1, 3]], lambda t: fn(t, (0, 2)), typed=True)
        fam.case(op, [torch.zeros(0, 3, dtype=boolean)], lambda t: fn(t), typed=True)
        fam.case(op, [torch.zeros(0, 3, dtype=boolean), 1], lambda t: fn(t, 0), typed=True)
        fam.case(op, [T([[0, 1, 2], [1, 1, 1]], i64), 2], lambda t: fn(t, 1), typed=True)
        fam.case(op, [T([[0.0, nan], [0.0, 0.0]], f32), 2], lambda t: fn(t, 1), typed=True)
    fam.case("logsumexp", [x, 2], lambda t: t.logsumexp(1))
    fam.case("logsumexp", [y, [1, 3]], lambda t: t.logsumexp((0, 2)))
    fam.case("logsumexp", [In(y, layout="t"), -1], lambda t: t.logsumexp(-1, keepdim=True), options=dict(keepdim=True))
    fam.case("logsumexp", [In(z, layout="s"), 1], lambda t: t.logsumexp(0))
    fam.case("logsumexp", [T([[1000.0, 1001.0, 999.0], [-1000.0, -1001.0, -2000.0]]), 2], lambda t: t.logsumexp(1))
    fam.case("logsumexp", [T([[-inf, -inf], [-inf, 1.0], [inf, 1.0]], f32), 2], lambda t: t.logsumexp(1), typed=True)
    fam.case("logsumexp", [torch.zeros(3, 0, dtype=f64), 2], lambda t: t.logsumexp(1))
    for op, fn in [("cumsum", torch.cumsum), ("cumprod", torch.cumprod)]:
        fam.case(op, [x, 1], lambda t: fn(t, 0))
        fam.case(op, [x, 2], lambda t: fn(t, 1))
        fam.case(op, [In(y, layout="t"), -2], lambda t: fn(t, -2))
        fam.case(op, [In(y, layout="s"), 3], lambda t: fn(t, 2))
        fam.case(op, [U(), 1], lambda t: fn(t, 0))
        fam.case(op, [torch.zeros(3, 0, dtype=f64), 2], lambda t: fn(t, 1))
        fam.case(op, [I(3, 4, lo=1, hi=5), 2], lambda t: fn(t, 1), typed=True)
        fam.case(op, [T([True, True, False, True], boolean), 1], lambda t: fn(t, 0), typed=True)
        fam.case(
            op,
            [U(300), 1] if op == "cumsum" else [T([[2.0, 0.0, 3.0, 4.0], [0.0, 1.5, 0.0, 2.0]]), 2],
            lambda t: fn(t, t.dim() - 1),
        )
    o = dict(dtype="f64")
    for op, fn in [("sum", torch.sum), ("mean", torch.mean), ("prod", torch.prod)]:
        fam.case(op, [In(y, layout="t"), 2], lambda t: fn(t, 1, dtype=f64), options=o)
        fam.case(op, [I(3, 4, lo=1, hi=4), 2, False], lambda t: fn(t, 1, dtype=f64), options=o, typed=True)
    for name, dtype in [("i64", i64), ("i32", i32), ("u8", u8), ("f32", f32)]:
        fam.case("sum", [T([1.75, 2.5, -0.5])], lambda t: t.sum(dtype=dtype), options=dict(dtype=name), typed=True)
    fam.case("norm", [U(3, 4), 2, 1], lambda t: torch.norm(t, 2, 0, dtype=f64), options=o)
    for op, fn in [("cumsum", torch.cumsum), ("cumprod", torch.cumprod)]:
        fam.case(op, [In(y, layout="s"), 2], lambda t: fn(t, 1, dtype=f64), options=o)
        fam.case(op, [I(3, 4, dtype=u8), 1], lambda t: fn(t, 0, dtype=i32), options=dict(dtype="i32"), typed=True)
    return fam


# ---------------------------------------------------------------- matrix products


def matmul():
    fam = Family("matmul")
    tr = lambda t: In(t, layout="t")
    st = lambda t: In(t, layout="s")
    for a, b in [
        (U(3, 4), U(4, 5)),
        (U(4), U(4)),
        (U(3, 4), U(4)),
        (U(4), U(4, 3)),
        (U(2, 3, 4), U(4, 5)),
        (U(3, 4), U(2, 4, 5)),
        (U(2, 1, 3, 4), U(5, 4, 2)),
        (U(4), U(2, 4, 3)),
        (U(2, 3, 4), U(4)),
        (U(3, 0), U(0, 4)),
        (U(0, 3), U(3, 2)),
        (U(0, 3, 4), U(4, 2)),
        (U(1, 1), U(1, 1)),
        (U(17, 33), U(33, 9)),
        (tr(U(3, 4)), tr(U(4, 5))),
        (st(U(3, 4)), st(U(4, 5))),
        (tr(U(2, 3, 4)), st(U(4, 5))),
        (In(U(1, 4), expand=(3, 4)), U(4, 2)),
    ]:
        fam.case("matmul", [a, b], torch.matmul)
    fam.case("matmul", [I(3, 4), I(4, 2)], torch.matmul, typed=True)
    for a, b in [
        (U(3, 4), U(4, 5)),
        (tr(U(3, 4)), U(4, 5)),
        (U(3, 4), tr(U(4, 5))),
        (st(U(5, 7)), tr(U(7, 3))),
        (U(3, 0), U(0, 2)),
        (U(1, 19), U(19, 1)),
    ]:
        fam.case("mm", [a, b], torch.mm)
    for a, b in [
        (U(2, 3, 4), U(2, 4, 5)),
        (tr(U(2, 3, 4)), U(2, 4, 5)),
        (st(U(2, 3, 4)), tr(U(2, 4, 5))),
        (U(0, 3, 4), U(0, 4, 2)),
        (U(3, 1, 5), U(3, 5, 1)),
        (U(2, 3, 0), U(2, 0, 2)),
    ]:
        fam.case("bmm", [a, b], torch.bmm)
    for a, b in [(U(3, 4), U(4)), (tr(U(3, 4)), st(U(4))), (U(0, 4), U(4)), (U(3, 0), U(0)), (U(9, 31), U(31))]:
        fam.case("mv", [a, b], torch.mv)
    for a, b in [(U(5), U(5)), (st(U(7)), U(7)), (U(0), U(0)), (U(1), U(1)), (U(67), U(67))]:
        fam.case("dot", [a, b], torch.dot)
    for a, b in [(U(3), U(4)), (st(U(3)), st(U(5))), (U(0), U(4)), (U(1), U(1))]:
        fam.case("outer", [a, b], torch.outer)
    fam.case("addmm", [U(3, 5), U(3, 4), U(4, 5)], torch.addmm)
    fam.case(
        "addmm",
        [U(5), U(3, 4), U(4, 5)],
        lambda c, a, b: torch.addmm(c, a, b, beta=0.5, alpha=2),
        options=dict(beta=0.5, alpha=2.0),
    )
    fam.case("addmm", [tr(U(3, 5)), tr(U(3, 4)), st(U(4, 5))], torch.addmm)
    fam.case("addmm", [U(3, 1), U(3, 0), U(0, 2)], torch.addmm)
    for x, w, b in [
        (U(3, 4), U(5, 4), U(5)),
        (U(3, 4), U(5, 4), None),
        (U(4), U(5, 4), U(5)),
        (U(2, 3, 4), U(5, 4), U(5)),
        (tr(U(3, 4)), st(U(5, 4)), st(U(5))),
        (U(0, 4), U(5, 4), U(5)),
        (U(3, 0), U(5, 0), U(5)),
        (U(13, 21), U(7, 21), U(7)),
    ]:
        fam.case("linear", [x, w, b] if b is not None else [x, w], F.linear)
    for x1, x2, w, b in [
        (U(3, 4), U(3, 5), U(2, 4, 5), U(2)),
        (U(3, 4), U(3, 5), U(2, 4, 5), None),
        (U(2, 3, 4), U(2, 3, 2), U(3, 4, 2), U(3)),
    ]:
        fam.case("bilinear", [x1, x2, w, b] if b is not None else [x1, x2, w], F.bilinear)
    for spec, ops in [
        ("ij,jk->ik", [U(3, 4), U(4, 5)]),
        ("ij,kj->ik", [tr(U(3, 4)), U(2, 4)]),
        ("ij->ji", [U(3, 4)]),
        ("ij->", [U(3, 4)]),
        ("ii->i", [U(4, 4)]),
        ("ii", [U(4, 4)]),
        ("i,j->ij", [U(3), U(4)]),
        ("i,i", [U(4), U(4)]),
        ("bij,bjk->bik", [U(2, 3, 4), st(U(2, 4, 2))]),
        ("ij,jk", [U(3, 4), U(4, 2)]),
        ("...ij,...jk->...ik", [U(2, 1, 3, 4), U(3, 4, 2)]),
        ("ij,jk,kl->il", [U(2, 3), U(3, 4), U(4, 2)]),
        ("bhqd,bhkd->bhqk", [U(2, 2, 3, 4), U(2, 2, 5, 4)]),
        ("ij,ij->i", [U(3, 4), U(3, 4)]),
        ("ijk->ik", [tr(U(2, 3, 4))]),
        ("a b, b -> a", [U(3, 4), U(4)]),
    ]:
        fam.case("einsum", [spec] + ops, lambda *t: torch.einsum(spec, *t))
    for spec, ops in [
        ("ij,kl,jj->ilk", [U(1, 2), U(4, 1), U(2, 2)]),
        ("al,ij,ii->ilj", [U(4, 1), U(1, 2), U(4, 4)]),
        ("i...,ij,j->...", [U(2, 3), U(2, 1), U(4)]),
    ]:
        fam.case("einsum", [spec] + ops, lambda *t: torch.einsum(spec, *t), note="sizes of 1 stand for the label's")
    fam.case("einsum", ["ij,jk->k", I(2, 3), I(3, 2)], lambda *t: torch.einsum("ij,jk->k", *t), typed=True)
    fam.case("einsum", ["ij->j", I(2, 3, dtype=i32)], lambda t: torch.einsum("ij->j", t), typed=True)
    for dtype in (i64, i32, u8):
        a, b = I(2, 3, dtype=dtype), I(3, 4, dtype=dtype)
        fam.case("addmm", [I(4, dtype=dtype), a, b], torch.addmm, typed=True)
        fam.case(
            "addmm", [I(2, 4, dtype=dtype), a, b, 3, 2], lambda c, a, b: torch.addmm(c, a, b, beta=3, alpha=2), typed=True
        )
    return fam


# ---------------------------------------------------------------- shapes


def shape():
    fam = Family("shape")
    x, y, e = U(3, 4), U(2, 3, 4), torch.zeros(0, 3, dtype=f64)
    yt, ys = In(y, layout="t"), In(y, layout="s")
    fam.case("reshape", [x, 4, 3], lambda t: t.reshape(4, 3))
    fam.case("reshape", [x, [2, -1]], lambda t: t.reshape(2, -1))
    fam.case("reshape", [yt, 6, 4], lambda t: t.reshape(6, 4))
    fam.case("reshape", [ys, -1], lambda t: t.reshape(-1))
    fam.case("reshape", [U(1, 1)], lambda t: t.reshape(()))
    fam.case("reshape", [U(), 1, 1], lambda t: t.reshape(1, 1))
    fam.case("reshape", [e, 3, 0, 2], lambda t: t.reshape(3, 0, 2))
    fam.case("view", [x, 4, 3], lambda t: t.view(4, 3))
    fam.case("view", [x, -1], lambda t: t.view(-1))
    fam.case("view", [y, [6, 4]], lambda t: t.view(6, 4))
    fam.case("flatten", [y], lambda t: t.flatten())
    fam.case("flatten", [yt, 2], lambda t: t.flatten(1))
    fam.case("flatten", [U(2, 3, 4, 2), 2, 3], lambda t: t.flatten(1, 2))
    fam.case("flatten", [U()], lambda t: t.flatten())
    fam.case("unflatten", [U(2, 12), 2, [3, 4]], lambda t: t.unflatten(1, (3, 4)))
    fam.case("unflatten", [U(6, 2), 1, [-1, 3]], lambda t: t.unflatten(0, (-1, 3)))
    fam.case("transpose", [x, 1, 2], lambda t: t.transpose(0, 1))
    fam.case("transpose", [yt, -1, 1], lambda t: t.transpose(-1, 0))
    fam.case("transpose", [ys, 2, 3], lambda t: t.transpose(1, 2))
    fam.case("t", [x], lambda t: t.t())
    fam.case("t", [U(3)], lambda t: t.t())
    fam.case("permute", [y, 3, 1, 2], lambda t: t.permute(2, 0, 1))
    fam.case("permute", [ys, [2, 3, 1]], lambda t: t.permute(1, 2, 0))
    fam.case("permute", [yt, -1, -3, -2], lambda t: t.permute(-1, -3, -2))
    fam.case("squeeze", [U(1, 3, 1)], lambda t: t.squeeze())
    fam.case("squeeze", [U(1, 3, 1), 1], lambda t: t.squeeze(0))
    fam.case("squeeze", [U(1, 3, 1), 2], lambda t: t.squeeze(1))
    fam.case("squeeze", [U(1, 3, 1), -1], lambda t: t.squeeze(-1))
    fam.case("unsqueeze", [x, 1], lambda t: t.unsqueeze(0))
    fam.case("unsqueeze", [x, 3], lambda t: t.unsqueeze(2))
    fam.case("unsqueeze", [In(x, layout="t"), -1], lambda t: t.unsqueeze(-1))
    fam.case("unsqueeze", [U(), 1], lambda t: t.unsqueeze(0))
    fam.case("expand", [U(3, 1), 3, 4], lambda t: t.expand(3, 4))
    fam.case("expand", [U(4), 2, 3, 4], lambda t: t.expand(2, 3, 4))
    fam.case("expand", [U(3, 1), [2, -1, 4]], lambda t: t.expand(2, -1, 4))
    fam.case("expand", [U(), 2, 2], lambda t: t.expand(2, 2))
    fam.case("expand", [U(1, 3), 0, 3], lambda t: t.expand(0, 3))
    fam.case("repeat", [x, 2, 3], lambda t: t.repeat(2, 3))
    fam.case("repeat", [U(3), [2, 2]], lambda t: t.repeat(2, 2))
    fam.case("repeat", [ys, 1, 2, 1], lambda t: t.repeat(1, 2, 1))
    fam.case("repeat", [U(), 3], lambda t: t.repeat(3))
    fam.case("repeat", [x, 0, 1], lambda t: t.repeat(0, 1))
    fam.case("cat", [[x, U(2, 4)], 1], lambda a, b: torch.cat((a, b), 0))
    fam.case("cat", [[x, In(U(3, 2), layout="t"), U(3, 1)], 2], lambda a, b, c: torch.cat((a, b, c), 1))
    fam.case("cat", [[x, In(x, layout="s")]], lambda a, b: torch.cat((a, b)))
    fam.case("cat", [[U(3, 0), x], -1], lambda a, b: torch.cat((a, b), -1))
    fam.case("cat", [[I(3), T([0.5], f32)], 1], lambda a, b: torch.cat((a, b)), typed=True)
    fam.case("cat", [[I(3, dtype=u8), I(2, dtype=i32)]], lambda a, b: torch.cat((a, b)), typed=True)
    fam.case("stack", [[x, U(3, 4)]], lambda a, b: torch.stack((a, b)))
    fam.case("stack", [[x, In(U(3, 4), layout="t")], 2], lambda a, b: torch.stack((a, b), 1))
    fam.case("stack", [[U(3), U(3), U(3)], -1], lambda *t: torch.stack(t, -1))
    fam.case("stack", [[U(), U()], 1], lambda a, b: torch.stack((a, b)))
    fam.case("split", [U(5, 2), 2], lambda t: t.split(2))
    fam.case("split", [U(2, 5), [1, 4], 2], lambda t: t.split([1, 4], 1))
    fam.case("split", [ys, 2, 3], lambda t: t.split(2, 2))
    fam.case("split", [U(2, 5), [0, 3, 2], -1], lambda t: t.split([0, 3, 2], -1))
    fam.case("chunk", [U(5, 2), 2], lambda t: t.chunk(2))
    fam.case("chunk", [U(2, 6), 3, 2], lambda t: t.chunk(3, 1))
    fam.case("chunk", [In(U(2, 7), layout="t"), 4, -1], lambda t: t.chunk(4, -1))
    fam.case("unbind", [x], lambda t: t.unbind())
    fam.case("unbind", [In(x, layout="t"), 2], lambda t: t.unbind(1))
    fam.case("unbind", [U(3)], lambda t: t.unbind())
    fam.case("narrow", [x, 1, 2, 2], lambda t: t.narrow(0, 1, 2))
    fam.case("narrow", [ys, 3, 1, 3], lambda t: t.narrow(2, 0, 3))
    fam.case("narrow", [yt, -1, 4, 1], lambda t: t.narrow(-1, 3, 1))
    fam.case("narrow", [x, 2, 2, 0], lambda t: t.narrow(1, 1, 0))
    fam.case("select", [x, 1, 2], lambda t: t.select(0, 1))
    fam.case("select", [ys, -1, -1], lambda t: t.select(-1, -1))
    fam.case("select", [yt, 2, 3], lambda t: t.select(1, 2))
    fam.case("select", [U(3), 1, 1], lambda t: t.select(0, 0))
    fam.case("flip", [x, 1], lambda t: t.flip(0))
    fam.case("flip", [ys, [1, 3]], lambda t: t.flip(0, 2))
    fam.case("flip", [yt, -2], lambda t: t.flip(-2))
    fam.case("flip", [e, 2], lambda t: t.flip(1))
    fam.case("roll", [x, 1], lambda t: t.roll(1))
    fam.case("roll", [x, 1, 1], lambda t: t.roll(1, 0))
    fam.case("roll", [ys, [1, -2], [1, 3]], lambda t: t.roll((1, -2), (0, 2)))
    fam.case("roll", [yt, -5, 2], lambda t: t.roll(-5, 1))
    for op in ("tril", "triu"):
        fn = getattr(torch, op)
        fam.case(op, [U(4, 4)], lambda t: fn(t))
        fam.case(op, [x, 1], lambda t: fn(t, 1))
        fam.case(op, [In(y, layout="t"), -1], lambda t: fn(t, -1))
        fam.case(op, [U(2, 0), 0], lambda t: fn(t, 0))
        fam.case(op, [I(3, 3)], lambda t: fn(t), typed=True)
    fam.case("diag", [U(3)], lambda t: t.diag())
    fam.case("diag", [U(3), 1], lambda t: t.diag(1))
    fam.case("diag", [In(U(4, 4), layout="t")], lambda t: t.diag())
    fam.case("diag", [x, -1], lambda t: t.diag(-1))
    fam.case("diag", [x, 2], lambda t: t.diag(2))
    fam.case("contiguous", [yt], lambda t: t.contiguous())
    fam.case("clone", [ys], lambda t: t.clone())
    for op, args, fn in [
        ("zeros", [2, 3], torch.zeros(2, 3)),
        ("ones", [[3, 1]], torch.ones(3, 1)),
        ("zeros", [0, 2], torch.zeros(0, 2)),
        ("full", [[2, 2], 7], torch.full((2, 2), 7.0)),
        ("full", [[2], 0.25], torch.full((2,), 0.25)),
        ("eye", [3], torch.eye(3)),
        ("eye", [2, 4], torch.eye(2, 4)),
        ("arange", [1, 10], torch.arange(1, 11)),
        ("arange", [5], torch.arange(1, 6)),
        ("arange", [0, 1, 0.25], torch.tensor([0, 0.25, 0.5, 0.75, 1.0])),
        ("arange", [10, 1, -3], torch.tensor([10, 7, 4, 1])),
        ("linspace", [0, 1, 5], torch.linspace(0, 1, 5)),
        ("linspace", [2, -1, 7], torch.linspace(2, -1, 7)),
        ("linspace", [3, 4, 1], torch.linspace(3, 4, 1)),
    ]:
        fam.case(op, args, lambda: fn, typed=True)
    fam.case("zeros", [2, 3], lambda: torch.zeros(2, 3, dtype=i64), options=dict(dtype="i64"), typed=True)
    fam.case("ones", [2], lambda: torch.ones(2, dtype=boolean), options=dict(dtype="bool"), typed=True)
    fam.case("zeros_like", [T([1, 2], i64)], torch.zeros_like, typed=True)
    fam.case("ones_like", [In(x.float(), layout="t")], torch.ones_like, typed=True)
    fam.case("full_like", [x.float(), 2.5], lambda t: torch.full_like(t, 2.5), typed=True)
    return fam


# ---------------------------------------------------------------- positions in data


def index():
    fam = Family("index")
    x, y = U(3, 4), U(2, 3, 4)
    P = lambda v, **k: In(T(v, i64), pos=True, **k)
    fam.case("index_select", [x, 1, P([2, 0, 0])], lambda t, i: t.index_select(0, i))
    fam.case("index_select", [x, 2, P([3, 1])], lambda t, i: t.index_select(1, i))
    fam.case("index_select", [In(y, layout="t"), -2, P([0, 2, 1, 0])], lambda t, i: t.index_select(-2, i))
    fam.case("index_select", [In(y, layout="s"), 3, P([])], lambda t, i: t.index_select(2, i))
    fam.case("index_select", [x, 2, In(T([3, 1], i32), pos=True)], lambda t, i: t.index_select(1, i))
    fam.case(
        "index_select",
        [x, 2, [4, 2, 2]],
        lambda t: t.index_select(1, torch.tensor([3, 1, 1])),
        note="a Lua list of positions",
    )
    fam.case("gather", [x, 1, P([[0, 1, 2, 0], [2, 2, 0, 1]])], lambda t, i: t.gather(0, i))
    fam.case("gather", [x, 2, P([[0, 0], [3, 1], [2, 2]])], lambda t, i: t.gather(1, i))
    fam.case("gather", [In(y, layout="t"), 3, In(I(2, 3, 2, hi=3), pos=True, layout="s")], lambda t, i: t.gather(2, i))
    fam.case("gather", [U(3, 4), 2, In(torch.zeros(0, 2, dtype=i64), pos=True)], lambda t, i: t.gather(1, i))
    perm = T([[2, 0, 1, 3], [0, 3, 2, 1]], i64)
    fam.case("scatter", [x, 2, In(perm, pos=True), U(2, 4)], lambda t, i, s: t.scatter(1, i, s))
    fam.case(
        "scatter",
        [In(x, layout="t"), 2, In(perm, pos=True), In(U(2, 4), layout="s")],
        lambda t, i, s: t.scatter(1, i, s),
    )
    fam.case("scatter", [x, 2, In(perm, pos=True), 1.25], lambda t, i: t.scatter(1, i, 1.25))
    fam.case("scatter", [U(4, 2), 1, P([[3, 0]]), U(1, 2)], lambda t, i, s: t.scatter(0, i, s))
    fam.case("scatter_add", [x, 2, P([[0, 0, 1, 0], [3, 3, 3, 3]]), U(2, 4)], lambda t, i, s: t.scatter_add(1, i, s))
    fam.case(
        "scatter_add",
        [In(x, layout="s"), 1, P([[0, 0, 1, 2], [2, 0, 2, 2], [0, 0, 0, 0], [1, 1, 1, 1]]), In(U(4, 4), layout="t")],
        lambda t, i, s: t.scatter_add(0, i, s),
    )
    fam.case("scatter_add", [U(4), 1, P([3, 3, 0]), U(3)], lambda t, i, s: t.scatter_add(0, i, s))
    fam.case("scatter_add", [I(4), 1, P([3, 3, 0]), I(3)], lambda t, i, s: t.scatter_add(0, i, s), typed=True)
    for a, m in [
        (x, B(3, 4)),
        (In(x, layout="t"), B(3, 4)),
        (In(y, layout="s"), B(2, 3, 4)),
        (x, B(4)),
        (x, torch.zeros(3, 4, dtype=boolean)),
        (U(), T(True, boolean)),
    ]:
        fam.case("masked_select", [a, m], torch.masked_select)
        fam.case("masked_fill", [a, m, -1.5], lambda t, m: t.masked_fill(m, -1.5))
    fam.case("masked_fill", [x, B(3, 1), U()], lambda t, m, v: t.masked_fill(m, v))
    fam.case("masked_fill", [x, B(3, 4), -inf], lambda t, m: t.masked_fill(m, -inf), grad=False)
    fam.case("masked_fill", [I(3), B(3), 7], lambda t, m: t.masked_fill(m, 7), typed=True)
    fam.case("take", [x, P([0, 11, 5, 5])], torch.take)
    fam.case("take", [In(y, layout="t"), P([[3, 4], [23, 0]])], torch.take)
    fam.case("take", [x, P([])], torch.take)
    for t in (
        T([[0, 1, 2], [3, 0, 0]], i64),
        T([0.0, 0.5, nan], f32),
        T([False, True], boolean),
        torch.zeros(0, 2),
        T(3, i64),
        torch.zeros(2, 2),
    ):
        fam.case("nonzero", [t], lambda t: Pos(torch.nonzero(t)), typed=True)
    fam.case("nonzero", [In(B(3, 4), layout="t")], lambda t: Pos(torch.nonzero(t)), typed=True)
    fam.case("one_hot", [P([0, 2, 1])], lambda i: F.one_hot(i), typed=True)
    fam.case("one_hot", [P([0, 2, 1]), 5], lambda i: F.one_hot(i, 5), typed=True)
    fam.case("one_hot", [P([[0, 1], [3, 3]]), 4], lambda i: F.one_hot(i, 4), typed=True)
    fam.case("one_hot", [P(2), 3], lambda i: F.one_hot(i, 3), typed=True)
    both = lambda r: [r.values, Pos(r.indices)]
    s3, s4, s1 = apart(2, 3, 4), apart(3, 4), apart(37)
    fam.case("topk", [s4, 2], lambda t: both(t.topk(2)))
    fam.case("topk", [s4, 2, 1], lambda t: both(t.topk(2, 0)))
    fam.case("topk", [In(s3, layout="t"), 3, -2], lambda t: both(t.topk(3, -2)))
    fam.case("topk", [s1, 5], lambda t: both(t.topk(5, largest=False)), options=dict(largest=False))
    fam.case("topk", [In(s3, layout="s"), 4, 3, False], lambda t: both(t.topk(4, 2, False)))
    fam.case("topk", [T([5, 3, 9, 1], i64), 2], lambda t: both(t.topk(2)), typed=True)
    fam.case("topk", [s4, 0], lambda t: both(t.topk(0)))
    fam.case("sort", [s4], lambda t: both(t.sort()))
    fam.case("sort", [s4, 1], lambda t: both(t.sort(0)))
    fam.case("sort", [In(s3, layout="t"), -2, True], lambda t: both(t.sort(-2, True)))
    fam.case("sort", [In(s3, layout="s"), 3], lambda t: both(t.sort(2, descending=True)), options=dict(descending=True))
    fam.case("sort", [s1], lambda t: both(t.sort()))
    fam.case(
        "sort", [T([3, 1, 2, 1, 3], i64)], lambda t: both(t.sort(stable=True)), options=dict(stable=True), typed=True
    )
    fam.case(
        "sort",
        [T([3, 1, 2, 1, 3], u8)],
        lambda t: both(t.sort(stable=True, descending=True)),
        options=dict(stable=True, descending=True),
        typed=True,
    )
    fam.case("sort", [T([2.0, nan, -1.0, inf, -inf], f32)], lambda t: both(t.sort()), typed=True, note="NaN last")
    fam.case("sort", [U()], lambda t: both(t.sort()))
    fam.case("sort", [torch.zeros(3, 0, dtype=f64)], lambda t: both(t.sort()))
    fam.case("unique", [T([3, 1, 2, 1, 3], i64)], torch.unique, typed=True)
    fam.case("unique", [T([[2.5, -1.0], [-1.0, 0.0]], f32)], torch.unique, typed=True)
    fam.case(
        "unique",
        [T([3, 1, 2, 1, 3], i64)],
        lambda t: (lambda r: [r[0], Pos(r[1]), r[2]])(torch.unique(t, return_inverse=True, return_counts=True)),
        options=dict(return_inverse=True, return_counts=True),
        typed=True,
    )
    fam.case("unique", [torch.zeros(0, dtype=i64)], torch.unique, typed=True)
    fam.case("bincount", [P([0, 2, 2, 4])], torch.bincount, typed=True)
    fam.case(
        "bincount", [P([0, 2, 2, 4])], lambda t: torch.bincount(t, minlength=8), options=dict(minlength=8), typed=True
    )
    fam.case(
        "bincount",
        [P([0, 2, 2, 1]), T([0.5, 1.5, 2.0, 3.0], f32)],
        lambda t, w: torch.bincount(t, w).float(),
        typed=True,
    )
    w = U(5, 3)
    fam.case("embedding", [P([0, 4, 2, 2]), w], F.embedding)
    fam.case("embedding", [P([[1, 0], [3, 3]]), In(w, layout="t")], F.embedding)
    fam.case(
        "embedding", [P([0, 4, 2, 2]), w], lambda i, w: F.embedding(i, w, padding_idx=2), options=dict(padding_idx=3)
    )
    fam.case("embedding", [P(3), w], F.embedding)
    fam.case("embedding", [In(torch.zeros(0, 2, dtype=i64), pos=True), w], F.embedding)
    # subscripts: x[subscript], the subscript a Lua value; r{...} stands for a range
    sub = lambda s, t, fn, **k: fam.case(Lua(s), [t], fn, kind="subscript", **k)
    sub("1", x, lambda t: t[0])
    sub("-1", In(y, layout="t"), lambda t: t[-1])
    sub("{2, 3}", x, lambda t: t[1, 2])
    sub("{{1, 2}, {}}", x, lambda t: t[0:2])
    sub("{{}, {2, 4, 2}}", In(x, layout="s"), lambda t: t[:, 1:4:2])
    sub("{{}, -1, {1, 2}}", y, lambda t: t[:, -1, 0:2])
    sub("{{3, 2}}", x, lambda t: t[2:2])
    sub("{{-2, -1}}", x, lambda t: t[-2:])
    fam.case(Lua("t"), [x, P([2, 0])], lambda t, i: t[i], kind="subscript", note="positions")
    fam.case(Lua("t"), [x, B(3, 4)], lambda t, m: t[m], kind="subscript", note="a mask")
    fam.case(Lua("t"), [x, T([True, False, True], boolean)], lambda t, m: t[m], kind="subscript", note="a mask of rows")
    fam.case(Lua("{{}, t}"), [y, P([2, 0])], lambda t, i: t[:, i], kind="subscript")
    fam.case(Lua("{1, {}, t}"), [In(y, layout="t"), P([2, 0, 0])], lambda t, i: t[0, :, i], kind="subscript")

    def assign(s, t, value, fn, pos=None, note=None):
        def run(t, *rest):
            t = t.clone()
            fn(t, *rest)
            return t

        fam.case(Lua(s), [t] + ([pos] if pos is not None else []) + [value], run, kind="assign", note=note)

    def set_(key):
        def fn(t, *rest):
            t[key] = rest[-1] if rest else 7.5

        return fn

    assign("1", x, 7.5, set_(0))
    assign("{1, {}}", x, U(4), set_((0, slice(None))))
    assign("{{}, {2, 4, 2}}", In(x, layout="t"), U(3, 2), set_((slice(None), slice(1, 4, 2))))
    assign("{2, 3}", x, U(), set_((1, 2)))
    assign("{{}, 1}", y, U(4), set_((slice(None), 0)))
    m, i = B(3, 4), T([2, 0], i64)
    assign("t", x, 7.5, lambda t, k: t.__setitem__(k, 7.5), pos=In(m))
    assign("t", x, U(2, 4), lambda t, k, v: t.__setitem__(k, v), pos=In(i, pos=True))
    assign("t", x, U(4), lambda t, k, v: t.__setitem__(k, v), pos=In(i, pos=True))
    m = B(3, 4)
    for v in (2.5, 2):
        for t in (I(3, 4), I(3, 4, dtype=u8), B(3, 4)):
            fam.case("masked_fill", [t, m, v], lambda t, m: t.masked_fill(m, v), typed=True, note="the type is input's")
            fam.case(
                "scatter", [t, 2, P([[0], [2], [1]]), v], lambda t, i: t.scatter(1, i, v), typed=True, note="the type is input's"
            )
    for t in (x, T(2.0), torch.zeros(2, 0, 3, dtype=f64), B(2, 3, 2)):
        fam.case(
            "nonzero",
            [t],
            lambda t: [Pos(i) for i in t.nonzero(as_tuple=True)],
            options=dict(as_tuple=True),
            typed=True,
        )
    fam.case("unique", [T([2.0, nan, 1.0, nan, 2.0], f32)], torch.unique, typed=True, note="no NaN equals another")
    return fam


# ---------------------------------------------------------------- losses


def loss():
    fam = Family("loss")
    a, b = U(3, 4), U(3, 4)
    near = a + U(3, 4, lo=0.2, hi=0.8) * torch.where(B(3, 4), 1.0, -1.0)
    far = torch.where(B(3, 4), near, a + 3 * torch.where(B(3, 4), 1.0, -1.0)).float().double()
    for op, fn, extra in [
        ("mse_loss", F.mse_loss, {}),
        ("l1_loss", F.l1_loss, {}),
        ("smooth_l1_loss", F.smooth_l1_loss, {}),
        ("smooth_l1_loss", F.smooth_l1_loss, dict(beta=2.5)),
        ("huber_loss", F.huber_loss, {}),
        ("huber_loss", F.huber_loss, dict(delta=0.15)),
    ]:
        t = far
        if not extra:
            fam.case(op, [a, t], fn)
            fam.case(op, [In(U(2, 3), layout="t"), In(U(2, 3, lo=3, hi=4), layout="s")], fn)
            fam.case(op, [U(), U(lo=3, hi=5)], fn)
            fam.case(
                op,
                [torch.zeros(0, 3, dtype=f64), torch.zeros(0, 3, dtype=f64)],
                lambda x, y: fn(x, y, reduction="sum"),
                options=dict(reduction="sum"),
            )
        for r in ("mean", "sum", "none"):
            fam.case(op, [a, t], lambda x, y: fn(x, y, reduction=r, **extra), options=dict(reduction=r, **extra))
    fam.case("smooth_l1_loss", [a, far], lambda x, y: F.smooth_l1_loss(x, y, beta=0.0), options=dict(beta=0.0))
    P = lambda t: In(t, pos=True)
    x, y, w = U(5, 4, lo=-3, hi=3), I(5, hi=3), U(4, lo=0.2, hi=2)
    x3, y3 = U(2, 4, 3), I(2, 3, hi=3)
    x4, y4 = U(2, 4, 2, 3), I(2, 2, 3, hi=3)
    y[0] = 1
    for r in ("mean", "sum", "none"):
        o = dict(reduction=r)
        fam.case("cross_entropy", [x, P(y)], lambda x, y: F.cross_entropy(x, y, **o), options=o)
        fam.case(
            "cross_entropy",
            [x3, P(y3)],
            lambda x, y, ww: F.cross_entropy(x, y, ww, **o),
            options=dict(weight=In(w, grad=False), **o),
        )
        fam.case(
            "cross_entropy",
            [x, P(y)],
            lambda x, y: F.cross_entropy(x, y, ignore_index=1, **o),
            options=dict(ignore_index=2, **o),
        )
        fam.case(
            "cross_entropy",
            [x, P(y)],
            lambda x, y: F.cross_entropy(x, y, label_smoothing=0.1, **o),
            options=dict(label_smoothing=0.1, **o),
        )
        fam.case(
            "cross_entropy",
            [x3, P(y3)],
            lambda x, y, ww: F.cross_entropy(x, y, ww, ignore_index=1, label_smoothing=0.2, **o),
            options=dict(weight=In(w, grad=False), ignore_index=2, label_smoothing=0.2, **o),
        )
        p = F.softmax(U(5, 4), 1).float().double()
        fam.case("cross_entropy", [x, In(p)], lambda x, p: F.cross_entropy(x, p, **o), options=o, note="probabilities")
        fam.case(
            "cross_entropy",
            [x, In(p)],
            lambda x, p, ww: F.cross_entropy(x, p, ww, label_smoothing=0.1, **o),
            options=dict(weight=In(w, grad=False), label_smoothing=0.1, **o),
            note="probabilities",
        )
        lp = F.log_softmax(x, 1).float().double()
        lp3 = F.log_softmax(x3, 1).float().double()
        fam.case("nll_loss", [lp, P(y)], lambda x, y: F.nll_loss(x, y, **o), options=o)
        fam.case(
            "nll_loss",
            [In(lp3, layout="t"), P(y3)],
            lambda x, y, ww: F.nll_loss(x, y, ww, ignore_index=2, **o),
            options=dict(weight=In(w, grad=False), ignore_index=3, **o),
        )
        q, t = U(3, 4, lo=0.05, hi=0.95), U(3, 4, lo=0, hi=1)
        bw = U(3, 4, lo=0.2, hi=2)
        fam.case(
            "binary_cross_entropy", [q, In(t, grad=False)], lambda q, t: F.binary_cross_entropy(q, t, **o), options=o
        )
        fam.case(
            "binary_cross_entropy",
            [In(q, layout="t"), In(t, layout="s", grad=False)],
            lambda q, t, ww: F.binary_cross_entropy(q, t, ww, **o),
            options=dict(weight=In(bw, grad=False), **o),
        )
        z = U(3, 4, lo=-4, hi=4)
        fam.case(
            "binary_cross_entropy_with_logits",
            [z, In(t, grad=False)],
            lambda z, t: F.binary_cross_entropy_with_logits(z, t, **o),
            options=o,
        )
        fam.case(
            "binary_cross_entropy_with_logits",
            [In(z, layout="t"), In(t, grad=False)],
            lambda z, t, ww, pw: F.binary_cross_entropy_with_logits(z, t, ww, pos_weight=pw, **o),
            options=dict(weight=In(bw, grad=False), pos_weight=In(w, grad=False), **o),
        )
        lq = F.log_softmax(U(3, 4), 1).float().double()
        tp = F.softmax(U(3, 4), 1).float().double()
        fam.case("kl_div", [lq, In(tp, grad=False)], lambda q, t: F.kl_div(q, t, **o), options=o)
        fam.case(
            "kl_div",
            [lq, In(tp.log().float().double(), grad=False)],
            lambda q, t: F.kl_div(q, t, log_target=True, **o),
            options=dict(log_target=True, **o),
        )
    fam.case("cross_entropy", [x4, P(y4)], lambda x, y: F.cross_entropy(x, y))
    fam.case("cross_entropy", [In(x4, layout="t"), P(y4)], lambda x, y: F.cross_entropy(x, y))
    fam.case("cross_entropy", [In(x, layout="s"), P(y)], lambda x, y: F.cross_entropy(x, y))
    fam.case("cross_entropy", [U(4), P(T(2, i64))], lambda x, y: F.cross_entropy(x, y), note="one sample without batch")
    fam.case(
        "cross_entropy",
        [T([[100.0, -100.0, 0.0], [1e4, 0.0, 1e4]]), P(T([1, 2], i64))],
        lambda x, y: F.cross_entropy(x, y),
    )
    fam.case(
        "cross_entropy",
        [U(0, 3), P(torch.zeros(0, dtype=i64))],
        lambda x, y: F.cross_entropy(x, y, reduction="sum"),
        options=dict(reduction="sum"),
    )
    fam.case("nll_loss", [F.log_softmax(x4, 1).float().double(), P(y4)], lambda x, y: F.nll_loss(x, y))
    fam.case("nll_loss", [F.log_softmax(U(4), 0).float().double(), P(T(2, i64))], lambda x, y: F.nll_loss(x, y))
    fam.case(
        "binary_cross_entropy",
        [T([0.001, 0.999, 0.001, 0.999], f64).float().double(), In(T([0.0, 1.0, 1.0, 0.0]), grad=False)],
        lambda q, t: F.binary_cross_entropy(q, t, reduction="none"),
        options=dict(reduction="none"),
    )
    fam.case(
        "binary_cross_entropy",
        [T([0.0, 1.0, 0.0, 1.0]), In(T([0.0, 1.0, 1.0, 0.0]), grad=False)],
        lambda q, t: F.binary_cross_entropy(q, t, reduction="none"),
        options=dict(reduction="none"),
        grad=False,
        note="logarithms cut at -100",
    )
    fam.case(
        "binary_cross_entropy_with_logits",
        [T([60.0, -60.0, 60.0, -60.0]), In(T([0.0, 1.0, 1.0, 0.0]), grad=False)],
        lambda q, t: F.binary_cross_entropy_with_logits(q, t, reduction="none"),
        options=dict(reduction="none"),
    )
    fam.case(
        "kl_div",
        [lq, In(tp, grad=False)],
        lambda q, t: F.kl_div(q, t, reduction="batchmean"),
        options=dict(reduction="batchmean"),
    )
    fam.case(
        "kl_div",
        [lq, In(T([[0.0, 0.5, 0.5, 0.0], [1.0, 0, 0, 0], [0.25] * 4]), grad=False)],
        lambda q, t: F.kl_div(q, t, reduction="none"),
        options=dict(reduction="none"),
        note="0 log 0 is 0",
    )
    return fam


# ---------------------------------------------------------------- modules


def fixed(net):
    """Parameters that f32 can hold."""
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(U(*p.shape, lo=-1, hi=1, dtype=p.dtype))
    return net


def module():
    fam = Family("module")

    module_case = fam.module_case
    N = torch.nn
    for a, k, o, xs in [
        ((4, 3), {}, None, (5, 4)),
        ((4, 3), dict(bias=False), dict(bias=False), (5, 4)),
        ((4, 1), {}, None, (2, 3, 4)),
        ((7, 5), {}, None, (7,)),
    ]:
        module_case("Linear", list(a), fixed(N.Linear(*a, **k)), [U(*xs)], options=o)
    module_case("Bilinear", [4, 5, 3], fixed(N.Bilinear(4, 5, 3)), [U(2, 4), U(2, 5)])
    module_case(
        "Bilinear", [4, 5, 3], fixed(N.Bilinear(4, 5, 3, bias=False)), [U(2, 4), U(2, 5)], options=dict(bias=False)
    )
    module_case("Embedding", [6, 3], fixed(N.Embedding(6, 3)), [In(T([[0, 5], [2, 2]], i64), pos=True)])
    module_case(
        "Embedding",
        [6, 3],
        fixed(N.Embedding(6, 3, padding_idx=2)),
        [In(T([[0, 5], [2, 2]], i64), pos=True)],
        options=dict(padding_idx=3),
    )
    module_case("PReLU", [], fixed(N.PReLU()), [U(3, 4, avoid=(0,))])
    module_case("PReLU", [4], fixed(N.PReLU(4)), [U(3, 4, avoid=(0,))])
    module_case("Flatten", [], N.Flatten(), [U(2, 3, 4)])
    module_case("Flatten", [1], N.Flatten(0), [U(2, 3, 4)])
    module_case("Unflatten", [2, [3, 4]], N.Unflatten(1, (3, 4)), [U(2, 12)])
    module_case("Identity", [], N.Identity(), [U(2, 3)])
    module_case("Dropout", [0.5], N.Dropout(0.5).eval(), [U(2, 3)], mode="eval")
    for name in (
        "Sigmoid",
        "Tanh",
        "Softsign",
        "ReLU",
        "ReLU6",
        "LeakyReLU",
        "RReLU",
        "ELU",
        "SELU",
        "CELU",
        "Softplus",
        "SiLU",
        "GELU",
        "Mish",
        "Hardsigmoid",
        "Hardtanh",
        "Hardswish",
        "Hardshrink",
        "Softshrink",
        "Tanhshrink",
        "LogSigmoid",
        "GLU",
    ):
        module_case(name, [], getattr(N, name)().eval(), [U(3, 4, avoid=(0, -0.5, 0.5, 1, -1))], mode="eval")
    x = U(3, 4, avoid=(0, -0.5, 0.5, 1, -1, 0.3))
    module_case("LeakyReLU", [0.3], N.LeakyReLU(0.3), [x])
    module_case("ELU", [], N.ELU(alpha=0.5), [x], options=dict(alpha=0.5))
    module_case("CELU", [0.5], N.CELU(0.5), [x])
    module_case("Softplus", [2.0], N.Softplus(2.0), [x])
    module_case("GELU", [], N.GELU(approximate="tanh"), [x], options=dict(approximate="tanh"))
    module_case("Hardtanh", [-0.7, 0.8], N.Hardtanh(-0.7, 0.8), [x])
    module_case("Threshold", [0.3, -1.0], N.Threshold(0.3, -1.0), [x])
    for name in ("Softmax", "Softmin", "LogSoftmax"):
        module_case(name, [2], getattr(N, name)(1), [x])
        module_case(name, [], getattr(N, name)(dim=0), [x], options=dict(dim=1))
    q, t01 = U(3, 4, lo=0.1, hi=0.9), In(U(3, 4, lo=0, hi=1), grad=False)
    lq, y = F.log_softmax(U(3, 4), 1).float().double(), In(T([1, 3, 0], i64), pos=True)
    target = In(U(3, 4, lo=3, hi=4), grad=False)
    for name, xs in [
        ("MSELoss", [x, target]),
        ("L1Loss", [x, target]),
        ("SmoothL1Loss", [x, target]),
        ("HuberLoss", [x, target]),
        ("CrossEntropyLoss", [x, y]),
        ("NLLLoss", [lq, y]),
        ("BCELoss", [q, t01]),
        ("BCEWithLogitsLoss", [x, t01]),
        ("KLDivLoss", [lq, t01]),
    ]:
        module_case(name, [], getattr(N, name)(), xs)
        module_case(name, [], getattr(N, name)(reduction="sum"), xs, options=dict(reduction="sum"))
    module_case(
        "CrossEntropyLoss", [], N.CrossEntropyLoss(label_smoothing=0.1), [x, y], options=dict(label_smoothing=0.1)
    )
    module_case("HuberLoss", [], N.HuberLoss(delta=0.5), [x, target], options=dict(delta=0.5))
    module_case("SmoothL1Loss", [], N.SmoothL1Loss(beta=0.5), [x, target], options=dict(beta=0.5))

    # a whole network: ten steps of training from given weights
    for act, opt, o in [
        ("Tanh", torch.optim.SGD, dict(lr=0.5, momentum=0.9)),
        ("ReLU", torch.optim.Adam, dict(lr=0.02)),
        ("GELU", torch.optim.AdamW, dict(lr=0.05, weight_decay=0.1)),
    ]:
        net = fixed(N.Sequential(N.Linear(6, 8), getattr(N, act)(), N.Linear(8, 4))).double()
        state = {k: fam.put_input(v, False) for k, v in net.state_dict().items()}
        x, y = U(16, 6), I(16, hi=3)
        opt_ = opt(net.parameters(), **o)
        losses = []
        for _ in range(10):
            opt_.zero_grad()
            l = F.cross_entropy(net(x), y)
            l.backward()
            opt_.step()
            losses.append(l.item())
        fam.add(
            {
                "train": act,
                "optimizer": type(opt_).__name__,
                "options": o,
                "state": state,
                "x": fam.put_input(x, False),
                "y": fam.put(y + 1),
                "losses": losses,
                "final": {k: fam.put(v) for k, v in net.state_dict().items()},
            }
        )
    return fam


# ---------------------------------------------------------------- optimizers


def optim():
    fam = Family("optim")
    O = torch.optim
    steps, shapes = 20, [(2, 3), (5,), (1, 1)]
    p0 = [U(*s, avoid=(0,)) for s in shapes]
    gs = [U(steps, *s, avoid=(0,)) for s in shapes]
    for name, o in [
        ("SGD", dict(lr=0.1)),
        ("SGD", dict(lr=0.1, momentum=0.9)),
        ("SGD", dict(lr=0.1, momentum=0.9, nesterov=True)),
        ("SGD", dict(lr=0.1, weight_decay=0.05)),
        ("SGD", dict(lr=0.1, momentum=0.8, dampening=0.3, weight_decay=0.05)),
        ("SGD", dict(lr=0.1, momentum=0.8, maximize=True)),
        ("Adam", dict()),
        ("Adam", dict(lr=0.05, betas=[0.8, 0.95])),
        ("Adam", dict(lr=0.05, weight_decay=0.1, eps=1e-3)),
        ("Adam", dict(lr=0.05, amsgrad=True)),
        ("AdamW", dict()),
        ("AdamW", dict(lr=0.05, weight_decay=0.1, betas=[0.8, 0.95])),
        ("AdamW", dict(lr=0.05, amsgrad=True)),
        ("RMSprop", dict()),
        ("RMSprop", dict(lr=0.02, alpha=0.9)),
        ("RMSprop", dict(lr=0.02, centered=True, eps=1e-3)),
        ("RMSprop", dict(lr=0.02, momentum=0.9, weight_decay=0.05)),
        ("RMSprop", dict(lr=0.02, momentum=0.5, centered=True, eps=1e-2)),
        ("Adagrad", dict()),
        ("Adagrad", dict(lr=0.1, lr_decay=0.1, weight_decay=0.05)),
        ("Adagrad", dict(lr=0.1, initial_accumulator_value=0.3)),
    ]:
        ps = [p.clone().requires_grad_() for p in p0]
        opt = getattr(O, name)(ps, foreach=False, **{k: tuple(v) if isinstance(v, list) else v for k, v in o.items()})
        after = {}
        for s in range(steps):
            for p, g in zip(ps, gs):
                p.grad = g[s].clone()
            opt.step()
            if s + 1 in (1, 2, steps):
                after[s + 1] = [fam.put(p) for p in ps]
        fam.add(
            {
                "optimizer": name,
                "options": o,
                "params": [fam.put_input(p, False) for p in p0],
                "given": [fam.put_input(g, False) for g in gs],
                "after": Lua("{" + ", ".join(f"[{k}] = {lua(v)}" for k, v in after.items()) + "}"),
            }
        )

    # two groups with their own settings
    ps = [p.clone().requires_grad_() for p in p0]
    opt = O.SGD([dict(params=ps[:1], lr=0.5), dict(params=ps[1:], momentum=0.9)], lr=0.1)
    for s in range(steps):
        for p, g in zip(ps, gs):
            p.grad = g[s].clone()
        opt.step()
    fam.add(
        {
            "optimizer": "SGD",
            "options": dict(lr=0.1),
            "groups": [dict(first=1, last=1, lr=0.5), dict(first=2, last=3, momentum=0.9)],
            "params": [fam.put_input(p, False) for p in p0],
            "given": [fam.put_input(g, False) for g in gs],
            "after": Lua("{[20] = " + lua([fam.put(p) for p in ps]) + "}"),
        }
    )

    for name, args, make in [
        ("StepLR", [3], lambda o: O.lr_scheduler.StepLR(o, 3)),
        ("StepLR", [2, 0.5], lambda o: O.lr_scheduler.StepLR(o, 2, 0.5)),
        ("CosineAnnealingLR", [10], lambda o: O.lr_scheduler.CosineAnnealingLR(o, 10)),
        ("CosineAnnealingLR", [4, 0.01], lambda o: O.lr_scheduler.CosineAnnealingLR(o, 4, 0.01)),
    ]:
        opt = O.SGD([torch.zeros(1, requires_grad=True)], lr=0.3)
        sched, rates = make(opt), []
        for _ in range(12):
            rates.append(opt.param_groups[0]["lr"])
            opt.step()
            sched.step()
        fam.add({"schedule": name, "args": Lua(fam.list_of(args)), "lr": 0.3, "rates": rates})
    for maximum, p in [(1.0, 2.0), (100.0, 2.0), (0.5, 1.0), (0.5, inf)]:
        ps = [x.clone().requires_grad_() for x in p0]
        for x, g in zip(ps, gs):
            x.grad = g[0].clone()
        total = torch.nn.utils.clip_grad_norm_(ps, maximum, p)
        fam.add(
            {
                "clip": maximum,
                "p": p,
                "params": [fam.put_input(x, False) for x in p0],
                "given": [fam.put_input(g, False) for g in gs],
                "total": float(total),
                "clipped": [fam.put(x.grad) for x in ps],
            }
        )
    return fam


# ---------------------------------------------------------------- images: pooling, batch normalisation


def image():
    fam = Family("image")
    long_, area, volume = apart(2, 3, 9), apart(2, 3, 5, 7), apart(2, 2, 4, 3, 5)

    def pool(op, x, *rest, note=None):
        """The op of that name with indices as a second result where the last argument asks for them."""
        fn = getattr(F, op)

        def run(t):
            out = fn(t, *rest)
            return [out[0], Pos(out[1])] if isinstance(out, tuple) else out

        fam.case(op, [x, *(list(r) if isinstance(r, tuple) else r for r in rest)], run, note=note)

    # ---- max pooling; the last arguments are dilation, ceil_mode, return_indices
    pool("max_pool1d", long_, 2)
    pool("max_pool1d", In(long_, layout="t"), 3, 2, 1, 1, True, True)
    pool("max_pool2d", area, 2)
    pool("max_pool2d", In(area, layout="s"), (3, 2), (2, 1), (1, 0), (1, 2), True, True)
    pool("max_pool2d", apart(3, 4, 4), 3, 1, 1, note="no batch")
    pool("max_pool2d", torch.zeros(0, 3, 4, 4, dtype=f64), 2)
    pool("max_pool3d", volume, (2, 1, 2), (1, 2, 2), (1, 0, 1), 1, False, True)
    for x, size in [(long_, 4), (area, (2, 3)), (volume, (3, 2, 4))]:
        n = x.dim() - 2
        pool(f"adaptive_max_pool{n}d", x, size, True)
        pool(f"adaptive_avg_pool{n}d", In(x, layout="t"), size)
    pool("adaptive_avg_pool2d", area, 1)

    # ---- mean pooling: stride, padding, ceil_mode, count_include_pad, divisor_override
    pool("avg_pool1d", long_, 3, 2, 1, True, False)
    pool("avg_pool2d", area, 2)
    pool("avg_pool2d", In(area, layout="t"), (3, 2), (2, 1), (1, 0), True, True)
    pool("avg_pool2d", area, 3, 2, 1, True, False)
    pool("avg_pool2d", In(area, layout="s"), 3, 2, 1, False, True, 5)
    pool("avg_pool3d", volume, 2, 1, 1, False, False)

    # ---- batch normalisation
    mean, var, w, b = In(U(3), grad=False), In(U(3, lo=0.5, hi=2), grad=False), U(3), U(3)
    for x in (U(5, 3), In(U(2, 3, 4), layout="t"), In(U(2, 3, 3, 2), layout="s"), U(2, 3, 1, 2, 2)):
        train = lambda x, w, b: F.batch_norm(x, None, None, w, b, True)
        fam.case("batch_norm", [x, None, None, w, b, True], train)
        evaluate = lambda x, m, v, w, b: F.batch_norm(x, m, v, w, b, False, 0.1, 0.01)
        fam.case("batch_norm", [x, mean, var, w, b, False, 0.1, 0.01], evaluate)
    plain = lambda x: F.batch_norm(x, None, None, None, None, True, 0.1, 0.1)
    fam.case("batch_norm", [U(4, 3), None, None, None, None, True, 0.1, 0.1], plain)
    fam.case("batch_norm", [U(4, 3), mean, var, w], lambda x, m, v, w: F.batch_norm(x, m, v, w))

    # ---- modules
    N = torch.nn

    def after(net, *batches):
        """Parameters that f32 can hold, and running statistics that have seen something, rounded alike."""
        fixed(net.double())
        for x in batches:
            net(x)
        for buffer in net.buffers():
            if buffer.is_floating_point():
                buffer.copy_(buffer.float().double())
        return net

    x2, x3, x4, x5 = U(5, 3), U(2, 3, 4), U(2, 3, 2, 3), U(2, 3, 1, 2, 2)
    for name, x in [("BatchNorm1d", x2), ("BatchNorm1d", x3), ("BatchNorm2d", x4), ("BatchNorm3d", x5)]:
        fam.module_case(name, [3], after(getattr(N, name)(3)), [x])
        fam.module_case(name, [3], after(getattr(N, name)(3), x * 2 + 1).eval(), [x], mode="eval")
    bare = dict(affine=False, track_running_stats=False, eps=0.25)
    fam.module_case("BatchNorm2d", [3], N.BatchNorm2d(3, **bare), [x4], options=bare)
    fam.module_case("BatchNorm2d", [3], N.BatchNorm2d(3, **bare).eval(), [x4], options=bare, mode="eval")
    fam.module_case("MaxPool2d", [2], N.MaxPool2d(2), [area])
    fam.module_case("MaxPool2d", [3], N.MaxPool2d(3, 2, 1), [area], options=dict(stride=2, padding=1))
    fam.module_case("MaxPool1d", [2], N.MaxPool1d(2), [long_])
    fam.module_case("MaxPool3d", [2], N.MaxPool3d(2, ceil_mode=True), [volume], options=dict(ceil_mode=True))
    fam.module_case("AvgPool1d", [2], N.AvgPool1d(2), [long_])
    fam.module_case("AvgPool2d", [3], N.AvgPool2d(3, divisor_override=2), [area], options=dict(divisor_override=2))
    fam.module_case("AvgPool3d", [2], N.AvgPool3d(2), [volume])
    fam.module_case("AdaptiveAvgPool2d", [[2, 3]], N.AdaptiveAvgPool2d((2, 3)), [area])
    fam.module_case("AdaptiveMaxPool2d", [2], N.AdaptiveMaxPool2d(2), [area])

    # ---- normalisation of each sample
    for x in (In(U(2, 3, 4), layout="t"), In(U(2, 3, 3, 2), layout="s"), U(2, 3, 1, 2, 2)):
        own = lambda x, w, b: F.instance_norm(x, None, None, w, b, True, 0.1, 0.01)
        fam.case("instance_norm", [x, None, None, w, b, True, 0.1, 0.01], own)
        running = lambda x, m, v, w, b: F.instance_norm(x, m, v, w, b, False)
        fam.case("instance_norm", [x, mean, var, w, b, False], running)
    fam.case("instance_norm", [U(3, 2, 7)], lambda x: F.instance_norm(x))
    for name, x in [("InstanceNorm1d", x3), ("InstanceNorm2d", x4), ("InstanceNorm3d", x5), ("InstanceNorm2d", U(3, 4, 2))]:
        fam.module_case(name, [3], getattr(N, name)(3), [x])
        tracked = dict(affine=True, track_running_stats=True, eps=0.01)
        fam.module_case(name, [3], after(getattr(N, name)(3, **tracked)), [x], options=tracked)
        fam.module_case(name, [3], after(getattr(N, name)(3, **tracked), x * 2 + 1).eval(), [x], options=tracked, mode="eval")
    return fam


# ---------------------------------------------------------------- convolutions


def convolution():
    fam = Family("convolution")
    N = torch.nn

    def last(x):
        """Drawn where it lies: channels adjacent, as results of convolutions are."""
        return In(x, layout="c")

    def conv(rank, x, w, bias=True, stride=1, padding=0, dilation=1, groups=1):
        b = U(w[0]) if bias else None
        options = dict(stride=stride, padding=padding, dilation=dilation, groups=groups)
        given = {k: v for k, v in options.items() if v != (0 if k == "padding" else 1)}
        f = getattr(F, f"conv{rank}d")
        args = [x, U(*w)] + ([b] if bias else [])
        fam.case(f"conv{rank}d", args, lambda *t: f(*t, **options), options=given or None)

    conv(1, U(2, 3, 8), (4, 3, 3))
    conv(1, U(3, 9), (2, 3, 4), stride=2, padding=3, dilation=2)
    conv(1, In(U(2, 4, 7), layout="s"), (6, 2, 4), padding="same", groups=2)
    conv(1, U(0, 2, 5), (3, 2, 2))
    conv(1, U(1, 1, 40), (2, 1, 5), bias=False, padding=2)
    conv(2, U(2, 3, 6, 5), (4, 3, 3, 3))
    conv(2, U(1, 1, 9, 9), (6, 1, 5, 5), padding=2)
    conv(2, last(U(2, 6, 7, 6)), (17, 6, 3, 3), padding=1, stride=2)
    conv(2, In(U(2, 4, 5, 6), layout="t"), (8, 4, 2, 3), stride=[2, 1], padding=[1, 0], dilation=[1, 2])
    conv(2, U(2, 4, 6, 6), (4, 1, 3, 3), padding=1, groups=4)
    conv(2, U(2, 3, 7, 6), (6, 1, 3, 2), padding=[2, 1], stride=2, groups=3)
    conv(2, U(2, 6, 5, 5), (4, 3, 2, 2), bias=False, groups=2, dilation=2)
    conv(2, last(U(2, 5, 4, 4)), (3, 5, 1, 1))
    conv(2, U(2, 5, 5, 5), (3, 5, 1, 1), stride=2)
    conv(2, U(3, 5, 5), (2, 3, 2, 4), padding="same")
    conv(2, U(1, 18, 4, 4), (20, 18, 3, 3), padding=1)
    conv(2, U(2, 2, 3, 3), (2, 2, 3, 3))
    conv(2, U(2, 2, 3, 4), (3, 2, 3, 3), padding=4)
    conv(3, U(2, 2, 4, 3, 5), (3, 2, 2, 2, 3))
    conv(3, U(2, 4, 4, 3), (2, 2, 3, 2, 1), padding=[1, 0, 1], stride=[2, 1, 1])
    conv(3, U(1, 3, 3, 4, 4), (3, 1, 2, 3, 3), padding="same", groups=3)

    x = U(2, 3, 4)
    for pad, mode, value in [
        ([1, 2], "constant", 0.5),
        ([1, -1, 2, 0], "constant", 0.0),
        ([2, 1], "reflect", None),
        ([3, 2], "replicate", None),
        ([4, 1], "circular", None),
    ]:
        more = [mode] if value is None else [mode, value]
        fam.case("pad", [x, pad] + more, lambda x: F.pad(x, pad, mode, value))
    fam.case("pad", [U(1, 2, 3, 4), [1, 2, 2, 1], "reflect"], lambda x: F.pad(x, [1, 2, 2, 1], "reflect"))
    fam.case("pad", [T([[1, 2], [3, 4]], i64), [1, 1]], lambda x: F.pad(x, [1, 1]), typed=True)

    for k in ({}, dict(padding=1, stride=2), dict(padding="same", groups=2, bias=False)):
        fam.module_case("Conv1d", [2, 4, 3], fixed(N.Conv1d(2, 4, 3, **k)), [U(2, 2, 6)], options=k)
    for mode in ("zeros", "reflect", "replicate", "circular"):
        k = dict(padding=[1, 2], padding_mode=mode)
        fam.module_case("Conv2d", [2, 3, [2, 3]], fixed(N.Conv2d(2, 3, (2, 3), **k)), [U(2, 2, 4, 4)], options=k)
    k = dict(padding="same", dilation=2, padding_mode="reflect")
    fam.module_case("Conv2d", [2, 3, 2], fixed(N.Conv2d(2, 3, 2, **k)), [U(2, 4, 5)], options=k)
    fam.module_case("Conv3d", [2, 2, 2], fixed(N.Conv3d(2, 2, 2, padding=1)), [U(1, 2, 2, 3, 2)], options=dict(padding=1))
    return fam


# ---------------------------------------------------------------- recurrent layers


def recurrent():
    fam = Family("recurrent")
    N = torch.nn

    def scale(v):
        return float(f"{float(v.detach().abs().max()) * 4 + 1:.3g}") if v.numel() else 1.0

    def flat(values):
        for v in values:
            if isinstance(v, tuple):
                yield from flat(v)
            else:
                yield v

    def case(name, args, inputs, options=None, **torch_options):
        """A module with given parameters: results and states, gradients of inputs, states and parameters."""
        net = getattr(N, name)(*args, **{**(options or {}), **torch_options}).double()
        with torch.no_grad():
            for p in net.parameters():
                p.copy_(U(*p.shape, lo=-1, hi=1, dtype=p.dtype))
        leaves = []

        def write(x):
            if isinstance(x, tuple):
                return {"list": [write(v) for v in x]}
            leaves.append((x.clone().requires_grad_(), {"t": fam.put_input(x, False)}))
            return leaves[-1][1]

        items = [write(x) for x in inputs]
        given = iter(leaf for leaf, _ in leaves)
        out = net(*[tuple(next(given) for _ in x) if isinstance(x, tuple) else next(given) for x in inputs])
        outs = list(flat(out if isinstance(out, tuple) else (out,)))
        loss = sum((o * weights_of(o.shape, k)).sum() for k, o in enumerate(outs))
        grads = torch.autograd.grad(loss, [leaf for leaf, _ in leaves] + list(net.parameters()))
        for (_, item), g in zip(leaves, grads):
            item["grad"], item["scale"] = fam.put(g), scale(g)
        names = [n for n, _ in net.named_parameters()]
        entry = {"module": name, "args": Lua(fam.list_of(args))}
        if options:
            entry["options"] = options
        entry["inputs"] = items
        entry["outputs"] = [{"t": fam.put(o), "scale": scale(o)} for o in outs]
        entry["grads"] = {n: {"t": fam.put(g), "scale": scale(g)} for n, g in zip(names, grads[len(leaves) :])}
        entry["state"] = {n: fam.put_input(p, False) for n, p in net.named_parameters()}
        fam.add(entry)

    for name in ("RNN", "GRU", "LSTM"):
        state = (lambda *s: (U(*s), U(*s))) if name == "LSTM" else U
        case(name, [3, 4], [U(3, 2, 3)])
        case(name, [3, 4], [U(3, 2, 3), state(1, 2, 4)])
        case(name, [2, 3, 2], [U(3, 4, 2), state(4, 3, 3)], dict(batch_first=True, bidirectional=True))
        case(name, [3, 5], [U(4, 3), state(1, 5)], dict(bias=False))
        case(name, [3, 17], [U(2, 1, 3)], dict(bidirectional=True))
    case("RNN", [3, 4], [U(3, 2, 3), U(1, 2, 4)], dict(nonlinearity="relu"))
    case("LSTM", [3, 4, 2], [U(3, 4, 3), (U(4, 4, 2), U(4, 4, 4))], dict(bidirectional=True, proj_size=2))
    case("LSTM", [2, 3], [U(3, 2)], dict(proj_size=1, bias=False))
    for name in ("RNNCell", "GRUCell", "LSTMCell"):
        state = (lambda *s: (U(*s), U(*s))) if name == "LSTMCell" else U
        case(name, [3, 4], [U(2, 3), state(2, 4)])
        case(name, [3, 4], [U(3)], dict(bias=False))
    case("RNNCell", [2, 3], [U(2, 2)], dict(nonlinearity="relu"))
    return fam


# ---------------------------------------------------------------- the layers of transformers


def attention_modules(fam):
    N = torch.nn

    def case(options, inputs, call=None, args=(6, 2)):
        net = fixed(N.MultiheadAttention(*args, **options))
        fam.module_case("MultiheadAttention", list(args), net, inputs, options=options or None, call=call)

    q, k, v = U(4, 3, 6), U(5, 3, 6), U(5, 3, 6)
    no = dict(need_weights=False)
    case({}, [q, k, v])
    case({}, [q, k, v], no)
    case({}, [q, k, v], dict(average_attn_weights=False))
    case(dict(bias=False, batch_first=True), [U(3, 4, 6), U(3, 5, 6), U(3, 5, 6)], no)
    case(dict(kdim=4, vdim=5), [q, U(5, 3, 4), U(5, 3, 5)])
    case(dict(add_bias_kv=True), [q, k, v], no)
    padding = torch.tensor([[0, 0, 0, 0, 0], [0, 0, 0, 1, 1], [1, 0, 0, 0, 1]]).bool()
    mask = torch.tensor([[0, 1, 1, 0, 0], [0, 0, 1, 0, 0], [0, 0, 0, 1, 0], [0, 0, 0, 0, 1]]).bool()
    case(dict(add_bias_kv=True, add_zero_attn=True), [q, k, v], dict(key_padding_mask=padding, attn_mask=mask))
    case({}, [q, k, v], dict(key_padding_mask=padding, need_weights=False))
    case({}, [q, k, v], dict(attn_mask=U(4, 5), need_weights=False))
    case({}, [q, k, v], dict(attn_mask=U(6, 4, 5)))
    case({}, [q, k, v], dict(attn_mask=U(4, 5), key_padding_mask=padding.double() * -3, need_weights=False))
    causal = torch.ones(4, 4).triu(1).bool()
    case({}, [q, k[:4], v[:4]], dict(attn_mask=causal, is_causal=True, need_weights=False))
    case({}, [U(4, 6), U(5, 6), U(5, 6)])
    case(dict(batch_first=True), [U(4, 6), U(5, 6), U(5, 6)], dict(key_padding_mask=padding[1]))


def transformer():
    fam = Family("transformer")
    N = torch.nn
    for x, dims in [
        (U(3, 4), 1),
        (U(2, 3, 5), 1),
        (In(U(2, 3, 5), layout="t"), 2),
        (In(U(4, 37), layout="s"), 1),
        (U(7), 1),
        (U(0, 3), 1),
        (U(2, 3, 4, lo=99, hi=101), 2),
    ]:
        shape = list((x.x if isinstance(x, In) else x).shape[-dims:])
        w, b = U(*shape), U(*shape)
        fam.case("layer_norm", [x, shape, w, b], lambda x, w, b: F.layer_norm(x, shape, w, b))
        fam.case("layer_norm", [x, shape], lambda x: F.layer_norm(x, shape, eps=0.1), options=dict(eps=0.1))
        fam.case("layer_norm", [x, shape, w], lambda x, w: F.layer_norm(x, shape, w))
        fam.case("rms_norm", [x, shape, w, 1e-6], lambda x, w: F.rms_norm(x, shape, w, 1e-6))
        fam.case("rms_norm", [x, shape], lambda x: F.rms_norm(x, shape, eps=0.1), options=dict(eps=0.1))
    x = U(2, 3, dtype=f32)
    fam.case("rms_norm", [x, [3]], lambda x: F.rms_norm(x, [3]), typed=True, note="eps of the type")
    for x, groups in [(U(2, 6), 2), (U(2, 4, 5), 2), (In(U(3, 4, 2, 3), layout="t"), 1), (U(1, 4, 20), 4), (U(0, 4, 3), 2)]:
        channels = (x.x if isinstance(x, In) else x).shape[1]
        w, b = U(channels), U(channels)
        fam.case("group_norm", [x, groups, w, b], lambda x, w, b: F.group_norm(x, groups, w, b))
        fam.case("group_norm", [x, groups], lambda x: F.group_norm(x, groups, eps=0.1), options=dict(eps=0.1))
    attend = F.scaled_dot_product_attention
    q, k, v = U(2, 3, 4, 6), U(2, 3, 5, 6), U(2, 3, 5, 2)
    name = "scaled_dot_product_attention"
    fam.case(name, [q, k, v], attend)
    fam.case(name, [In(q, layout="t"), In(k, layout="t"), In(v, layout="s")], attend)
    fam.case(name, [q, k, v], lambda q, k, v: attend(q, k, v, is_causal=True), options=dict(is_causal=True))
    fam.case(name, [q, k, v], lambda q, k, v: attend(q, k, v, scale=0.2), options=dict(scale=0.2))
    fam.case(name, [U(4, 6), U(5, 6), U(5, 3)], attend, note="without a batch")
    fam.case(name, [U(2, 1, 4, 6), U(1, 3, 5, 6), U(3, 5, 2)], attend, note="broadcast")
    fam.case(name, [U(2, 4, 6, lo=-5, hi=5), U(2, 5, 6, lo=-5, hi=5), U(2, 5, 2)], attend)
    for mask in (U(2, 3, 4, 5), U(4, 5), U(2, 1, 1, 5), In(U(4, 5), layout="t")):
        fam.case(name, [q, k, v, mask], attend)
    dead = torch.tensor([[1, 0, 1, 1, 0], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1], [0, 0, 0, 0, 1]]).bool()
    for mask in (dead, dead[:, :1], dead[:1], In(B(2, 1, 4, 5), layout="t")):
        fam.case(name, [q, k, v, mask], attend)
    fam.case(name, [q, k, v, T([0.0, -inf, 1.0, -inf, 0.5])], attend)
    fam.case(name, [U(0, 4, 6), U(0, 5, 6), U(0, 5, 2)], attend)
    fam.case(name, [U(2, 0, 6), U(2, 5, 6), U(2, 5, 2)], attend)
    fam.case(name, [U(2, 1, 6), U(2, 1, 6), U(2, 1, 2)], attend)
    for heads in ((2, 2), (1, 1), (4, 4), (2, 1)):
        fam.case(
            name,
            [U(2, 4, 3, 6), U(2, heads[0], 5, 6), U(2, heads[1], 5, 2)],
            lambda q, k, v: attend(q, k, v, is_causal=True, enable_gqa=True),
            options=dict(is_causal=True, enable_gqa=True),
        )
    fam.case(
        name,
        [U(70, 6), U(140, 6), U(140, 3)],
        lambda q, k, v: attend(q, k, v, is_causal=True),
        options=dict(is_causal=True),
        note="several tiles",
    )
    attention_modules(fam)
    for shape, k in [(4, {}), ([3, 4], dict(eps=0.01)), (4, dict(bias=False)), (4, dict(elementwise_affine=False))]:
        fam.module_case("LayerNorm", [shape], fixed(N.LayerNorm(shape, **k)), [U(2, 3, 4)], options=k)
    fam.module_case("RMSNorm", [4], fixed(N.RMSNorm(4, eps=0.01)), [U(2, 3, 4)], options=dict(eps=0.01))
    fam.module_case(
        "RMSNorm", [[3, 4], 0.1, False], fixed(N.RMSNorm([3, 4], 0.1, elementwise_affine=False)), [U(2, 3, 4)]
    )
    fam.module_case("GroupNorm", [2, 4], fixed(N.GroupNorm(2, 4)), [U(2, 4, 3, 3)])
    fam.module_case("GroupNorm", [4, 4], fixed(N.GroupNorm(4, 4, affine=False)), [U(2, 4, 5)], options=dict(affine=False))
    return fam



# Each family's own seed: another one's data stay as they are.
FAMILIES = {
    elementwise: 1000, activation: 1001, binary: 1002, reduce: 1003, matmul: 1004, shape: 1005, index: 1006, loss: 1007,
    module: 1008, optim: 1009, image: 1010, convolution: 1011, recurrent: 1010, transformer: 1010,
}


if __name__ == "__main__":
    if not torch.__version__.startswith(PINNED):
        print(f"made with torch {PINNED}, this is {torch.__version__}", file=sys.stderr)
    chosen = sys.argv[1:] or [f.__name__ for f in FAMILIES]
    for make, seed in FAMILIES.items():
        if make.__name__ in chosen:
            generator.manual_seed(seed)
            unary.pool.clear()
            make().write()
