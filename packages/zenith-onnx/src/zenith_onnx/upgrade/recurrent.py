"""Recurrent operators and Scan over batches."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from zenith_onnx.upgrade._table import Site, upgrades


@upgrades("RNN", "GRU", "LSTM", before=7)
def outputs_by_use(site: Site, opset: int) -> None:
    site.pop("output_sequence")
    if site.get("direction") == "foward":
        site.set("direction", "forward")


@upgrades("Scan", before=9)
def one_scan_per_sample(site: Site, opset: int) -> None:
    """Every operand had a batch axis in front: scan over the batch, and in it over the sequence.

    With sequence_lens, a sample is scanned as far as its length; what follows in the results, which
    the operator leaves undefined, is 0.
    """
    node, lengths = site.node, site.optional(0)
    directions = site.pop("directions")
    count = site.get("num_scan_inputs")
    body = node.attributes["body"].as_graph()
    operands = [v for v in node.inputs[1:] if v is not None]
    states = len(operands) - count
    samples = [ir.Value(name=f"{node.name}.sample{i}", type=v.type) for i, v in enumerate(operands)]
    del node.attributes["body"]
    nodes: list[ir.Node] = []

    def inside(op_type: str, *inputs: ir.Value) -> ir.Value:
        """A node of the outer body."""
        nodes.append(ir.Node("", op_type, inputs, name=f"{node.name}.{len(nodes)}.{op_type}"))
        nodes[-1].outputs[0].name = f"{node.name}.{len(nodes)}"
        return nodes[-1].outputs[0]

    given = list(samples)
    if lengths is not None:
        zero = site.ints([0])
        length = ir.Value(name=f"{node.name}.length", type=lengths.type)
        end = inside("Reshape", length, site.ints([1]))
        given[states:] = [inside("Slice", v, zero, end, zero) for v in samples[states:]]
    inner = ir.Node(
        "",
        "Scan",
        given,
        [ir.AttrGraph("body", body), ir.AttrInt64("num_scan_inputs", count)],
        num_outputs=len(node.outputs),
        name=f"{node.name}.sequence",
    )
    if directions is not None:
        inner.attributes.add(ir.AttrInt64s("scan_input_directions", directions))
    nodes.append(inner)
    for index, (new, old) in enumerate(zip(inner.outputs, node.outputs, strict=True)):
        new.name, new.type = f"{node.name}.result{index}", old.type
    results = list(inner.outputs)
    if lengths is not None:
        operands, samples = [*operands, lengths], [*samples, length]
        longest = inside("Gather", inside("Shape", samples[states]), zero)
        rest = inside("Concat", zero, inside("Sub", longest, end))
        nodes[-1].attributes.add(ir.AttrInt64("axis", 0))
        for index in range(states, len(results)):
            nothing = inside("CastLike", site.const(np.zeros((), np.float32)), results[index])
            results[index] = inside("Pad", results[index], rest, nothing, zero)
    outer = ir.Graph(samples, results, nodes=nodes, name=f"{body.name}.batch")
    attributes = [ir.AttrGraph("body", outer), ir.AttrInt64("num_scan_inputs", len(samples))]
    whole = ir.Node("", "Scan", operands, attributes, num_outputs=len(node.outputs), name=node.name)
    graph = node.graph
    assert graph is not None
    graph.insert_before(node, whole)
    site.replace(*whole.outputs)
