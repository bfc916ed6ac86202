"""RNN, GRU and LSTM rows against float64 written from the operators' text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

import zenith
from zenith import _native
from zenith.backends.cpu.kernels import rnn, views
from zenith.ir import OPSET, GraphIR

Array = np.ndarray[Any, Any]
ISAS = _native.complete_isas()
SPECS = [*rnn.SPECS, *views.SPECS]
GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
DEFAULT = {"RNN": ["Tanh"], "GRU": ["Sigmoid", "Tanh"], "LSTM": ["Sigmoid", "Tanh", "Tanh"]}
INPUTS = ["X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P"]


def function(name: str, alpha: float, beta: float) -> Callable[[Array], Array]:
    table: dict[str, Callable[[Array], Any]] = {
        "Sigmoid": lambda x: 1 / (1 + np.exp(-x)),
        "Tanh": np.tanh,
        "Relu": lambda x: np.maximum(x, 0),
        "Affine": lambda x: alpha * x + beta,
        "LeakyRelu": lambda x: np.where(x >= 0, x, alpha * x),
        "ThresholdedRelu": lambda x: np.where(x >= alpha, x, 0),
        "ScaledTanh": lambda x: alpha * np.tanh(beta * x),
        "HardSigmoid": lambda x: np.clip(alpha * x + beta, 0, 1),
        "Elu": lambda x: np.where(x >= 0, x, alpha * np.expm1(x)),
        "Softsign": lambda x: x / (1 + np.abs(x)),
        "Softplus": lambda x: np.log1p(np.exp(x)),
    }
    return table[name]


class Layer:
    """One layer's inputs, drawn from a seed, and what it computes."""

    def __init__(
        self,
        op: str,
        steps: int,
        batch: int,
        width: int,
        hidden: int,
        *,
        direction: str = "forward",
        layout: int = 0,
        missing: tuple[str, ...] = (),
        lengths: list[int] | None = None,
        seed: int = 0,
        **attributes: Any,
    ) -> None:
        rng = np.random.default_rng([seed, steps, batch, width, hidden])
        self.op, self.layout, self.direction, self.attributes = op, layout, direction, attributes
        self.hidden, self.directions = hidden, 2 if direction == "bidirectional" else 1
        d, g = self.directions, GATES[op]
        shapes = {
            "X": (steps, batch, width),
            "W": (d, g * hidden, width),
            "R": (d, g * hidden, hidden),
            "B": (d, 2 * g * hidden),
            "initial_h": (d, batch, hidden),
            "initial_c": (d, batch, hidden),
            "P": (d, 3 * hidden),
        }
        if op != "LSTM":
            del shapes["initial_c"], shapes["P"]
        self.arrays: dict[str, Array] = {}
        for name, shape in shapes.items():
            scale = 1.0 if name in ("X", "initial_h", "initial_c") else 1 / np.sqrt(hidden)
            if name not in missing:
                drawn = rng.standard_normal(shape) * scale
                self.arrays[name] = np.asarray(drawn, np.float32)
        if lengths is not None:
            self.arrays["sequence_lens"] = np.asarray(lengths, np.int32)

    def given(self) -> list[Array | None]:
        """Inputs in the node's order and layout."""
        turned = {
            name: np.ascontiguousarray(array.swapaxes(0, 1))
            if self.layout and name in ("X", "initial_h", "initial_c")
            else array
            for name, array in self.arrays.items()
        }
        values = [turned.get(name) for name in INPUTS]
        while values[-1] is None:
            values.pop()
        return values

    def expected(self) -> list[Array]:
        a = {k: v.astype(np.float64) for k, v in self.arrays.items() if k != "sequence_lens"}
        steps, batch, _ = a["X"].shape
        lengths = self.arrays.get("sequence_lens", np.full(batch, steps))
        y = np.zeros((steps, self.directions, batch, self.hidden))
        last_h = a.get("initial_h", np.zeros(y.shape[1:])).copy()
        last_c = a.get("initial_c", np.zeros(y.shape[1:])).copy()
        for d in range(self.directions):
            reverse = self.direction == "reverse" or d == 1
            for b in range(batch):
                times = range(int(lengths[b]))
                for t in reversed(times) if reverse else times:
                    last_h[d, b], last_c[d, b] = self.step(
                        a, d, a["X"][t, b], last_h[d, b], last_c[d, b]
                    )
                    y[t, d, b] = last_h[d, b]
        results = [y, last_h, last_c][: 3 if self.op == "LSTM" else 2]
        if self.layout:
            return [y.transpose(2, 0, 1, 3), *(r.swapaxes(0, 1) for r in results[1:])]
        return results

    def functions(self, d: int) -> list[Callable[[Array], Array]]:
        names = self.attributes.get("activations", DEFAULT[self.op] * self.directions)
        alphas = iter(self.attributes.get("activation_alpha", []))
        betas = iter(self.attributes.get("activation_beta", []))
        defaults = {"LeakyRelu": 0.01, "HardSigmoid": 0.2}
        with_alpha = (
            "Affine", "LeakyRelu", "ThresholdedRelu", "ScaledTanh", "HardSigmoid", "Elu",
        )  # fmt: skip
        made = []
        for name in names:
            alpha = next(alphas, defaults.get(name, 1.0)) if name in with_alpha else 0.0
            beta = 0.0
            if name in ("Affine", "ScaledTanh", "HardSigmoid"):
                beta = next(betas, {"Affine": 0.0, "ScaledTanh": 1.0, "HardSigmoid": 0.5}[name])
            made.append(function(name, alpha, beta))
        per = len(made) // self.directions
        return made[d * per : (d + 1) * per]

    def step(
        self, a: dict[str, Array], d: int, x: Array, h: Array, c: Array
    ) -> tuple[Array, Array]:
        n, g = self.hidden, GATES[self.op]
        clip = self.attributes.get("clip", np.inf)
        f = self.functions(d)
        bias = a.get("B", np.zeros((self.directions, 2 * g * n)))[d]
        wb, rb = bias[: g * n], bias[g * n :]
        w, r = a["W"][d] @ x + wb, a["R"][d]

        def part(v: Array, i: int) -> Array:
            return v[i * n : (i + 1) * n]

        def act(i: int, v: Array) -> Array:
            return f[i](np.clip(v, -clip, clip))

        if self.op == "RNN":
            return act(0, w + r @ h + rb), c
        if self.op == "GRU":
            s = r @ h + rb
            z, reset = act(0, part(w + s, 0)), act(0, part(w + s, 1))
            if self.attributes.get("linear_before_reset", 0):
                hidden = part(w, 2) + reset * part(s, 2)
            else:
                hidden = part(w, 2) + part(r, 2) @ (reset * h) + part(rb, 2)
            return (1 - z) * act(1, hidden) + z * h, c
        s = w + r @ h + rb
        p = a.get("P", np.zeros((self.directions, 3 * n)))[d]
        i = act(0, part(s, 0) + part(p, 0) * c)
        forget = act(0, part(s, 2) + part(p, 2) * c)
        if self.attributes.get("input_forget", 0):
            forget = 1 - i
        new = forget * c + i * act(1, part(s, 3))
        o = act(0, part(s, 1) + part(p, 1) * new)
        return o * f[2](new), new

    def node_attributes(self) -> dict[str, Any]:
        return {
            "hidden_size": self.hidden,
            "direction": self.direction,
            "layout": self.layout,
            **self.attributes,
        }


def check(make_row: Any, layer: Layer, constant: bool = True, **how: Any) -> None:
    row = make_row(
        SPECS,
        layer.op,
        layer.given(),
        constant=(1, 2, 3, 7) if constant else (),
        outputs=3 if layer.op == "LSTM" else 2,
        **how,
        **layer.node_attributes(),
    )
    assert row.reason() is None
    for isa in ISAS:
        for threads in (1, 2):
            got, _ = row.run(isa, threads)
            for y, want in zip(got, layer.expected(), strict=True):
                assert y.shape == want.shape
                scale = max(1.0, float(np.max(np.abs(want), initial=0)))
                np.testing.assert_allclose(y, want, rtol=3e-6, atol=3e-6 * scale)


CELLS: list[tuple[str, dict[str, Any]]] = [
    ("RNN", {}),
    ("GRU", {}),
    ("GRU", {"linear_before_reset": 1}),
    ("LSTM", {}),
]


@pytest.mark.parametrize(("op", "attributes"), CELLS)
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("layout", [0, 1])
@pytest.mark.parametrize("constant", [True, False])
def test_directions(
    make_row: Any, op: str, attributes: dict[str, Any], direction: str, layout: int, constant: bool
) -> None:
    layer = Layer(op, 5, 3, 4, 11, direction=direction, layout=layout, **attributes)
    check(make_row, layer, constant)


@pytest.mark.parametrize(("op", "attributes"), CELLS)
@pytest.mark.parametrize(
    ("steps", "batch", "width", "hidden"),
    [(1, 1, 1, 1), (3, 1, 7, 16), (2, 8, 3, 33), (4, 7, 5, 8), (2, 1, 3, 300), (3, 13, 2, 5)],
)
def test_sizes(
    make_row: Any, op: str, attributes: dict[str, Any],
    steps: int, batch: int, width: int, hidden: int,
) -> None:  # fmt: skip
    for direction in ("reverse", "bidirectional") if hidden < 300 else ("forward",):
        check(make_row, Layer(op, steps, batch, width, hidden, direction=direction, **attributes))


@pytest.mark.parametrize(("op", "attributes"), CELLS)
@pytest.mark.parametrize("missing", [("B",), ("initial_h", "initial_c"), ("B", "P", "initial_c")])
def test_missing_inputs(
    make_row: Any, op: str, attributes: dict[str, Any], missing: tuple[str, ...]
) -> None:
    for constant in (True, False):
        check(make_row, Layer(op, 3, 2, 4, 9, missing=missing, **attributes), constant)


@pytest.mark.parametrize(("op", "attributes"), CELLS)
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
def test_sequence_lengths(
    make_row: Any, op: str, attributes: dict[str, Any], direction: str
) -> None:
    lengths = [3, 6, 0, 1, 5]
    for layout in (0, 1):
        layer = Layer(
            op, 6, 5, 3, 10, direction=direction, layout=layout, lengths=lengths, **attributes
        )
        check(make_row, layer)


@pytest.mark.parametrize("op", ["RNN", "GRU", "LSTM"])
@pytest.mark.parametrize(
    ("name", "alpha", "beta"),
    [
        ("Relu", None, None),
        ("Affine", 0.7, 0.1),
        ("LeakyRelu", None, None),
        ("LeakyRelu", 0.3, None),
        ("ThresholdedRelu", 0.2, None),
        ("ScaledTanh", 0.8, 1.3),
        ("HardSigmoid", None, None),
        ("HardSigmoid", 0.3, 0.4),
        ("Elu", 0.5, None),
        ("Softsign", None, None),
        ("Softplus", None, None),
    ],
)
def test_activations(
    make_row: Any, op: str, name: str, alpha: float | None, beta: float | None
) -> None:
    count = len(DEFAULT[op])
    for position in range(count):
        names = [*DEFAULT[op]]
        names[position] = name
        attributes: dict[str, Any] = {"activations": [*names, *DEFAULT[op]]}
        if alpha is not None:
            attributes["activation_alpha"] = [alpha]
        if beta is not None:
            attributes["activation_beta"] = [beta]
        check(make_row, Layer(op, 3, 2, 4, 9, direction="bidirectional", **attributes))


def test_activation_values_in_order(make_row: Any) -> None:
    names = ["HardSigmoid", "Tanh", "LeakyRelu", "Affine", "ScaledTanh", "Elu"]
    layer = Layer(
        "LSTM", 3, 2, 4, 9,
        direction="bidirectional",
        activations=names,
        activation_alpha=[0.3, 0.2, 0.5, 0.9],
        activation_beta=[0.45, 0.05],
    )  # fmt: skip
    check(make_row, layer)


@pytest.mark.parametrize(("op", "attributes"), CELLS)
def test_clip(make_row: Any, op: str, attributes: dict[str, Any]) -> None:
    check(make_row, Layer(op, 4, 2, 4, 9, clip=0.3, **attributes))


def test_coupled_gates(make_row: Any) -> None:
    check(make_row, Layer("LSTM", 4, 2, 4, 9, input_forget=1))


@pytest.mark.parametrize(("op", "attributes"), CELLS)
@pytest.mark.parametrize(("steps", "batch"), [(0, 2), (3, 0)])
def test_empty(make_row: Any, op: str, attributes: dict[str, Any], steps: int, batch: int) -> None:
    for constant in (True, False):
        check(make_row, Layer(op, steps, batch, 4, 9, **attributes), constant)


@pytest.mark.parametrize(("op", "attributes"), CELLS)
def test_dynamic_sizes_and_strided_inputs(
    make_row: Any, op: str, attributes: dict[str, Any]
) -> None:
    layer = Layer(op, 5, 3, 4, 9, direction="bidirectional", **attributes)
    check(make_row, layer, dynamic={0: ("s", "b", 4), 5: (2, "b", 9), 6: (2, "b", 9)})
    permuted = {0: (1, 0, 2), 1: (0, 2, 1), 2: (0, 2, 1), 5: (2, 1, 0)}
    check(make_row, layer, constant=False, permuted=permuted)


def model(layer: Layer, outputs: list[str]) -> onnx.ModelProto:
    inputs = layer.given()
    names = [f"x{i}" if a is not None else "" for i, a in enumerate(inputs)]
    node = onnx.helper.make_node(layer.op, names, outputs, **layer.node_attributes())
    graph = onnx.helper.make_graph(
        [node],
        "layer",
        [
            onnx.helper.make_tensor_value_info(
                n, onnx.helper.np_dtype_to_tensor_dtype(a.dtype), a.shape
            )
            for n, a in zip(names, inputs, strict=True)
            if a is not None and n not in ("x1", "x2")
        ],
        [onnx.helper.make_tensor_value_info(n, 1, None) for n in outputs if n],
        [onnx.numpy_helper.from_array(inputs[i], names[i]) for i in (1, 2)],
    )
    return onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", 22)], ir_version=10
    )


@pytest.mark.parametrize(("op", "attributes"), CELLS)
@pytest.mark.parametrize("wanted", [(0,), (1,), (0, 1), (1, 2), (2,), (0, 2)])
def test_compiled_models_agree_with_onnxruntime(
    op: str, attributes: dict[str, Any], wanted: tuple[int, ...]
) -> None:
    count = 3 if op == "LSTM" else 2
    if max(wanted) >= count:
        pytest.skip("only an LSTM has a third output")
    outputs = [f"y{i}" if i in wanted else "" for i in range(count)]
    while not outputs[-1]:
        outputs.pop()
    missing = () if op == "LSTM" else ("initial_c", "P")
    layer = Layer(
        op, 6, 3, 5, 12, direction="bidirectional", lengths=[6, 2, 4], missing=missing,
        clip=0.9, **attributes,
    )  # fmt: skip
    proto = model(layer, outputs)
    feeds = {f"x{i}": a for i, a in enumerate(layer.given()) if a is not None and i not in (1, 2)}
    session = onnxruntime.InferenceSession(proto.SerializeToString())
    want = session.run(None, feeds)
    proto.opset_import[0].version = OPSET
    compiled = zenith.compile(GraphIR.from_onnx(proto), fallback="error")
    got = compiled(*feeds.values())
    for y, w in zip(got if isinstance(got, list | tuple) else [got], want, strict=True):
        np.testing.assert_allclose(y, w, rtol=2e-5, atol=2e-6)


def test_lengths_are_checked(make_row: Any) -> None:
    layer = Layer("GRU", 3, 2, 4, 5, lengths=[2, 4])
    row = make_row(SPECS, "GRU", layer.given(), constant=(1, 2), outputs=2, hidden_size=5)
    with pytest.raises(Exception, match="outside the sequence"):
        row.run(ISAS[0])


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("last", [0, 1])
def test_packer_is_exact(isa: str, last: int) -> None:
    r = np.random.default_rng(1).standard_normal((2, 3 * 7, 7)).astype(np.float32)
    for source in (r, np.ascontiguousarray(r.swapaxes(1, 2)).swapaxes(1, 2)):
        params = {"gates": 3, "last": last}
        packed = _native.pack(isa, "rnn_pack_f32", source, params)
        target = np.zeros_like(r)
        _native.unpack(isa, "rnn_pack_f32", packed, target, params)
        np.testing.assert_array_equal(target, r)


def test_reasons(make_row: Any) -> None:
    layer = Layer("RNN", 3, 2, 4, 5, activations=["Tanh", "Tanh"])
    row = make_row(
        SPECS, "RNN", layer.given(), constant=(1, 2), outputs=2, **layer.node_attributes()
    )
    assert row.reason() == "2 activations are given, not 1"
