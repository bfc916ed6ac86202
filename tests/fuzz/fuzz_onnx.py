"""Mutation fuzzer of `zenith.compile`: spoiled ONNX models and graphs, each in a bounded process.

    python tests/fuzz/fuzz_onnx.py --seconds 60 --seed 1 --out findings.json
    python tests/fuzz/fuzz_onnx.py --seed 1 --only 1234          # one case again, with its trace

Seeds are the models of ONNX's own operator tests. A case is (seed, number): the same model, the
same mutations, every time. It is compiled and, if that works, called once. Outcomes: ``ok``;
``clean``, an error of Zenith; ``dirty``, any other exception, or an "unexpected exception" that
only the last net caught; ``crash``, ``hang`` and ``memory``: the process died.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import pickle
import queue
import random
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

MEMORY = 8 << 30
SECONDS = 30  # for one case
BAD = ("dirty", "crash", "hang", "memory")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--first", type=int, default=0, help="the number of the first case")
    parser.add_argument("--only", type=int, help="run one case here and show what happens")
    parser.add_argument("--save", type=Path, help="with --only: where to write the model")
    parser.add_argument("--out", type=Path, help="JSON of all findings")
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        corpus, first, step = options.worker
        work(Path(corpus), options.seed, int(first), int(step), options.seconds)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder) / "corpus.pickle"
        corpus.write_bytes(pickle.dumps(collect()))
        if options.only is not None:
            return show(corpus, options.seed, options.only, options.save)
        findings = fuzz(corpus, options)
    report(findings, options)
    return 1 if any(finding["kind"] in BAD for finding in findings) else 0


def collect() -> list[tuple[str, bytes, list[Any] | None]]:
    """(name, model, inputs) of ONNX's operator tests."""
    from onnx.backend.test.case.node import collect_testcases

    warnings.simplefilter("ignore")
    found = []
    for case in collect_testcases(None):
        inputs = case.data_sets[0][0] if case.data_sets else None
        if inputs is not None and not all(hasattr(a, "dtype") for a in inputs):
            inputs = None
        found.append((case.name, case.model.SerializeToString(), inputs))
    return found


# --- the parent --------------------------------------------------------------------------------


def fuzz(corpus: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Run workers until the time is up; a worker that dies is a finding, another takes over."""
    found: list[dict[str, Any]] = []
    end = time.monotonic() + options.seconds
    lines: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()

    def serve(first: int) -> None:
        while (left := end - time.monotonic()) > 1:
            command = [sys.executable, __file__, "--seed", str(options.seed)]
            command += ["--seconds", str(left), "--worker", str(corpus)]
            command += [str(first), str(options.jobs)]
            with tempfile.TemporaryFile("w+") as errors:
                worker = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
                started = None
                for line in worker.stdout or ():
                    if not line.startswith("{"):
                        continue
                    entry = json.loads(line)
                    if "start" in entry:
                        started = entry["start"]
                    else:
                        lines.put(entry)
                        first, started = entry["case"] + options.jobs, None
                status = worker.wait()
                if started is None:
                    if status:
                        errors.seek(0)
                        raise RuntimeError(f"a worker failed: {errors.read()[-2000:]}")
                    continue
                errors.seek(0)
                kind = {-signal.SIGALRM: "hang", -signal.SIGKILL: "memory"}.get(status, "crash")
                text = errors.read()
                tail = text[:300] + " ... " + text[-1500:] if len(text) > 1800 else text
                lines.put({"case": started, "kind": kind, "what": f"status {status}", "at": tail})
                first = started + options.jobs

    first = range(options.first, options.first + options.jobs)
    threads = [threading.Thread(target=serve, args=(i,)) for i in first]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    while not lines.empty():
        found.append(lines.get())
    return found


def report(findings: list[dict[str, Any]], options: argparse.Namespace) -> None:
    counts = collections.Counter(f["kind"] for f in findings)
    print(f"seed {options.seed}: {len(findings)} cases: {dict(counts)}")
    groups: dict[tuple[str, str, str], list[int]] = {}
    for finding in findings:
        if finding["kind"] in BAD:
            key = (finding["kind"], finding["what"].split(":")[0], finding["at"][-300:])
            groups.setdefault(key, []).append(finding["case"])
    for (kind, _, at), cases in sorted(groups.items(), key=lambda item: -len(item[1])):
        first = next(f["what"] for f in findings if f["case"] == cases[0])
        print(f"\n{kind} x{len(cases)}: {first}\n    {at}\n    --only {cases[:5]}")
    if options.out:
        options.out.write_text(json.dumps(findings, indent=1))


# --- the worker --------------------------------------------------------------------------------


def work(corpus: Path, seed: int, first: int, step: int, seconds: float) -> None:
    prepare()
    models = pickle.loads(corpus.read_bytes())
    end = time.monotonic() + seconds
    number = first
    while time.monotonic() < end:
        print(json.dumps({"start": number}), flush=True)
        signal.alarm(SECONDS)
        kind, what, at = judge(*make(models, seed, number))
        signal.alarm(0)
        entry = {"case": number, "kind": kind, "what": what, "at": at}
        print(json.dumps(entry), flush=True)
        number += step


def prepare() -> None:
    import faulthandler

    faulthandler.enable()
    warnings.simplefilter("ignore")
    if "asan" not in os.environ.get("LD_PRELOAD", ""):  # which maps terabytes
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.setrecursionlimit(1000)


def judge(source: Any, inputs: list[Any] | None, rng: random.Random) -> tuple[str, str, str]:
    """Kind, what was raised, and where."""
    import zenith
    from zenith.errors import ZenithError

    try:
        if isinstance(source, tuple):
            from zenith_onnx.adapter import import_model

            graph = import_model(source[0]).graph
            spoil_graph(graph, rng)
            source = graph
        compiled = zenith.compile(source, fallback="allow", opt_level=rng.choice((0, 2, 2, 3)))
        compiled.run(feeds(compiled, inputs, rng))
    except ZenithError as error:
        cause = error.__cause__
        if "cannot be compiled: " in error.message or "reading the ONNX model failed" in str(error):
            return "dirty", f"netted {type(cause).__name__}: {str(cause)[:160]}", place(cause)
        return "clean", type(error).__name__, ""
    except Exception as error:  # noqa: BLE001  the point of the exercise
        return "dirty", f"{type(error).__name__}: {str(error)[:160]}", place(error)
    return "ok", "", ""


def place(error: BaseException | None) -> str:
    """The innermost frames."""
    frames = traceback.extract_tb(error.__traceback__)[-4:] if error is not None else []
    return " > ".join(f"{Path(f.filename).name}:{f.lineno} {f.name}" for f in frames)


def feeds(compiled: Any, inputs: list[Any] | None, rng: random.Random) -> dict[str, Any]:
    """The test's own inputs where they fit, random ones elsewhere."""
    import numpy as np

    from zenith.runtime.numpy_signature import numpy_dtype

    generator = np.random.default_rng(rng.randrange(1 << 30))
    free = rng.choice((0, 1, 2, 3, 5))
    result = {}
    for index, spec in enumerate(compiled.plan.inputs):
        if inputs is not None and len(inputs) == len(compiled.plan.inputs) and rng.random() < 0.8:
            result[spec.name] = inputs[index]
            continue
        shape = [d if isinstance(d, int) else free for d in spec.shape or ()]
        if np.prod([float(d) for d in shape]) > 1 << 24:
            shape = [min(d, 4) for d in shape]
        values = generator.integers(-5, 9, shape)
        try:
            result[spec.name] = values.astype(numpy_dtype(spec.dtype))
        except (AttributeError, TypeError, ValueError):
            result[spec.name] = values.astype(np.float32)
    return result


def show(corpus: Path, seed: int, number: int, save: Path | None) -> int:
    models = pickle.loads(corpus.read_bytes())
    source, inputs, rng = make(models, seed, number)
    if save is not None:
        data = source[0] if isinstance(source, tuple) else source
        save.write_bytes(data if isinstance(data, bytes) else data.SerializeToString())
    prepare()
    kind, what, at = judge(source, inputs, rng)
    print(f"{kind}: {what}\n{at}")
    return 0


# --- mutations ---------------------------------------------------------------------------------


def make(models: Any, seed: int, number: int) -> tuple[Any, list[Any] | None, random.Random]:
    """What to compile: bytes, a ModelProto, or (ModelProto,) to be spoiled as GraphIR."""
    import onnx

    rng = random.Random(f"{seed}:{number}")
    name, data, inputs = models[rng.randrange(len(models))]
    del name
    how = rng.random()
    if how < 0.2:
        return spoil_bytes(data, rng), inputs, rng
    model = onnx.ModelProto.FromString(data)
    if how < 0.35:
        return (model,), inputs, rng
    for _ in range(rng.choice((1, 1, 2, 4))):
        if not model.graph.node:
            break
        rng.choice(MUTATIONS)(model, rng)
    return model, inputs, rng


def spoil_bytes(data: bytes, rng: random.Random) -> bytes:
    spoiled = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        at = rng.randrange(max(len(spoiled), 1))
        how = rng.randrange(5)
        if not spoiled:
            break
        if how < 2:
            spoiled[at] ^= 1 << rng.randrange(8)
        elif how == 2:
            spoiled[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF))
        elif how == 3:
            del spoiled[at : at + rng.choice((1, 2, len(spoiled)))]
        else:
            spoiled[at:at] = bytes(rng.randrange(256) for _ in range(rng.choice((1, 4, 16))))
    return bytes(spoiled)


NUMBERS = (0, 1, -1, 2, 3, -2, 7, 63, 255, 1 << 20, 1 << 31, -(1 << 31), 1 << 62, -(1 << 63))


def number(rng: random.Random) -> int:
    return rng.choice(NUMBERS) if rng.random() < 0.7 else rng.randrange(-4, 10)


def _node(model: Any, rng: random.Random) -> Any:
    return rng.choice(model.graph.node)


def _names(model: Any) -> list[str]:
    graph = model.graph
    names = [v.name for v in (*graph.input, *graph.initializer, *graph.output)]
    return [*names, *(name for node in graph.node for name in node.output), "nobody", ""]


def drop_node(model: Any, rng: random.Random) -> None:
    del model.graph.node[rng.randrange(len(model.graph.node))]


def repeat_node(model: Any, rng: random.Random) -> None:
    copy = type(model.graph.node[0])()
    copy.CopyFrom(_node(model, rng))
    if rng.random() < 0.7:
        for index, name in enumerate(copy.output):
            copy.output[index] = f"{name}_again"
    model.graph.node.insert(rng.randrange(len(model.graph.node) + 1), copy)


def rewire(model: Any, rng: random.Random) -> None:
    node = _node(model, rng)
    if node.input:
        node.input[rng.randrange(len(node.input))] = rng.choice(_names(model))


def count_of_edges(model: Any, rng: random.Random) -> None:
    node = _node(model, rng)
    edges = node.input if rng.random() < 0.7 else node.output
    if edges and rng.random() < 0.5:
        del edges[rng.randrange(len(edges))]
    else:
        edges.append(rng.choice((*_names(model), "new")))


def other_operator(model: Any, rng: random.Random) -> None:
    import onnx

    schemas = onnx.defs.get_all_schemas()
    _node(model, rng).op_type = rng.choice(schemas).name


def rename_output(model: Any, rng: random.Random) -> None:
    outputs = model.graph.output
    if outputs:
        outputs[rng.randrange(len(outputs))].name = rng.choice(_names(model))


def input_type(model: Any, rng: random.Random) -> None:
    if model.graph.input:
        tensor = rng.choice(model.graph.input).type.tensor_type
        tensor.elem_type = rng.choice((*range(26), 99))


def input_shape(model: Any, rng: random.Random) -> None:
    infos = [*model.graph.input, *model.graph.output]
    if not infos:
        return
    shape = rng.choice(infos).type.tensor_type.shape
    how = rng.randrange(5)
    if how == 0 and shape.dim:
        del shape.dim[rng.randrange(len(shape.dim))]
    elif how == 1 or not shape.dim:
        shape.dim.add(dim_value=rng.choice((0, 1, 2, 5)))
    elif how == 2:
        rng.choice(shape.dim).dim_param = rng.choice(("N", "M", "N*2", "N+M", "N//0", "?", "2**99"))
    elif how == 3:
        for dim in shape.dim:
            dim.dim_param = rng.choice(("N", "M", "K"))
    else:
        rng.choice(shape.dim).dim_value = number(rng)


def attribute_value(model: Any, rng: random.Random) -> None:
    import onnx

    node = _node(model, rng)
    if not node.attribute:
        return
    attribute = rng.choice(node.attribute)
    kinds = onnx.AttributeProto
    if attribute.type == kinds.INT:
        attribute.i = number(rng)
    elif attribute.type == kinds.FLOAT:
        attribute.f = rng.choice((0.0, -1.0, 1e30, float("nan"), float("inf")))
    elif attribute.type == kinds.STRING:
        attribute.s = rng.choice(
            (b"", b"nonsense", b"\xff\xfe", attribute.s[::-1], attribute.s * 2)
        )
    elif attribute.type == kinds.INTS:
        how = rng.randrange(3)
        if how == 0 and attribute.ints:
            attribute.ints[rng.randrange(len(attribute.ints))] = number(rng)
        elif how == 1 and attribute.ints:
            del attribute.ints[rng.randrange(len(attribute.ints))]
        else:
            attribute.ints.append(number(rng))
    elif attribute.type == kinds.TENSOR:
        spoil_tensor(attribute.t, rng)
    elif attribute.type == kinds.GRAPH and attribute.g.node:
        inner = onnx.ModelProto(graph=attribute.g)
        rng.choice(MUTATIONS)(inner, rng)
        attribute.g.CopyFrom(inner.graph)


def drop_attribute(model: Any, rng: random.Random) -> None:
    node = _node(model, rng)
    if node.attribute:
        del node.attribute[rng.randrange(len(node.attribute))]


def add_attribute(model: Any, rng: random.Random) -> None:
    import onnx

    node = _node(model, rng)
    try:
        schema = onnx.defs.get_schema(node.op_type, domain=node.domain)
    except onnx.defs.SchemaError:
        return
    given = {a.name for a in node.attribute}
    missing = [a for name, a in schema.attributes.items() if name not in given]
    if not missing:
        return
    chosen = rng.choice(missing)
    attribute = node.attribute.add(name=chosen.name, type=int(chosen.type))
    attribute_value_of = {1: ("f", 0.5), 2: ("i", number(rng)), 3: ("s", b"linear")}
    if int(chosen.type) in attribute_value_of:
        setattr(attribute, *attribute_value_of[int(chosen.type)])
    elif int(chosen.type) == 7:
        attribute.ints.extend(number(rng) for _ in range(rng.randrange(4)))


def input_becomes_constant(model: Any, rng: random.Random) -> None:
    """So that folding and packing see it."""
    import numpy as np
    import onnx

    graph = model.graph
    if not graph.input:
        return
    at = rng.randrange(len(graph.input))
    info = graph.input[at]
    shape = [d.dim_value for d in info.type.tensor_type.shape.dim]
    try:
        dtype = onnx.helper.tensor_dtype_to_np_dtype(info.type.tensor_type.elem_type)
        if np.prod([float(d) for d in shape]) > 1 << 20 or dtype == np.dtype(object):
            return
        array = np.array([rng.choice(NUMBERS[:9]) for _ in range(int(np.prod(shape)))])
        tensor = onnx.numpy_helper.from_array(array.astype(dtype).reshape(shape), info.name)
    except (KeyError, TypeError, ValueError):
        return
    del graph.input[at]
    graph.initializer.append(tensor)


def initializer(model: Any, rng: random.Random) -> None:
    if model.graph.initializer:
        spoil_tensor(rng.choice(model.graph.initializer), rng)
    else:
        input_becomes_constant(model, rng)


def spoil_tensor(tensor: Any, rng: random.Random) -> None:
    how = rng.randrange(5)
    if how == 0:
        tensor.data_type = rng.choice((*range(26), 99))
    elif how == 1 and tensor.dims:
        tensor.dims[rng.randrange(len(tensor.dims))] = number(rng)
    elif how == 2:
        tensor.dims.append(rng.choice((0, 1, 2)))
    elif how == 3 and tensor.raw_data:
        tensor.raw_data = spoil_bytes(tensor.raw_data, rng)
    elif tensor.int64_data:
        tensor.int64_data[rng.randrange(len(tensor.int64_data))] = number(rng)
    elif len(tensor.raw_data) >= 8 and tensor.data_type == 7:
        at = rng.randrange(len(tensor.raw_data) // 8) * 8
        value = number(rng).to_bytes(8, "little", signed=True)
        tensor.raw_data = tensor.raw_data[:at] + value + tensor.raw_data[at + 8 :]


def opset(model: Any, rng: random.Random) -> None:
    for entry in model.opset_import:
        entry.version = rng.choice((0, -1, 1, 5, 7, 9, 11, 13, 18, 21, 24, 26, 28, 29, 1 << 40))


def swap_inputs(model: Any, rng: random.Random) -> None:
    node = _node(model, rng)
    if len(node.input) > 1:
        names = list(node.input)
        rng.shuffle(names)
        node.input[:] = names


MUTATIONS = (
    drop_node,
    repeat_node,
    rewire,
    rewire,
    count_of_edges,
    other_operator,
    rename_output,
    input_type,
    input_shape,
    input_shape,
    attribute_value,
    attribute_value,
    attribute_value,
    drop_attribute,
    add_attribute,
    add_attribute,
    input_becomes_constant,
    input_becomes_constant,
    initializer,
    opset,
    swap_inputs,
)


def spoil_graph(graph: Any, rng: random.Random) -> None:
    """Wrong edges, attributes, shapes and types, straight in GraphIR."""
    import onnx_ir as ir

    for _ in range(rng.choice((1, 2, 3))):
        nodes = graph.nodes
        if not nodes:
            return
        node = rng.choice(nodes)
        values = [*graph.inputs, *(v for n in nodes for v in n.outputs), ir.Value(name="stray")]
        how = rng.randrange(7)
        if how == 0 and node.inputs:
            node.replace_input_with(rng.randrange(len(node.inputs)), rng.choice([*values, None]))
        elif how == 1:
            value = rng.choice(values)
            value.shape = rng.choice((None, ir.Shape([]), ir.Shape([2, "N"]), ir.Shape([1 << 62])))
        elif how == 2:
            value = rng.choice(values)
            value.type = rng.choice((None, *(ir.TensorType(ir.DataType(k)) for k in range(1, 24))))
        elif how == 3 and node.attributes:
            name = rng.choice(list(node.attributes))
            node.attributes[name] = ir.AttrInt64(name, number(rng))
        elif how == 4:
            node.attributes["axis"] = ir.AttrInt64("axis", number(rng))
        elif how == 5:
            node.op_type = rng.choice(("Relu", "MatMul", "Conv", "Reshape", "Nothing", "Linear"))
            node.domain = rng.choice(("", "", "zenith", "nowhere"))
        elif len(nodes) > 1:
            graph.model.graph.remove(node)


if __name__ == "__main__":
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    sys.exit(main())
