"""Recurrent operators and Scan over batches."""

from __future__ import annotations

import onnx_ir as ir

from zenith_onnx.upgrade._table import Site, upgrades


@upgrades("RNN", "GRU", "LSTM", before=7)
def outputs_by_use(site: Site, opset: int) -> None:
    site.pop("output_sequence")
    if site.get("direction") == "foward":
        site.set("direction", "forward")


@upgrades("Scan", before=9)
def one_scan_per_sample(site: Site, opset: int) -> None:
    """Every operand had a batch axis in front: scan over the batch, and in it over the sequence."""
    node = site.node
    if site.optional(0) is not None:
        raise site.error("Scan of opset 8 with sequence_lens is not supported")
    directions = site.pop("directions")
    count = site.get("num_scan_inputs")
    body = node.attributes["body"].as_graph()
    operands = [v for v in node.inputs[1:] if v is not None]
    samples = [ir.Value(name=f"{site.node.name}.sample{i}") for i in range(len(operands))]
    for sample, operand in zip(samples, operands, strict=True):
        sample.type = operand.type
    del node.attributes["body"]
    inner = ir.Node(
        "",
        "Scan",
        samples,
        [ir.AttrGraph("body", body), ir.AttrInt64("num_scan_inputs", count)],
        num_outputs=len(node.outputs),
        name=f"{node.name}.sequence",
    )
    if directions is not None:
        inner.attributes.add(ir.AttrInt64s("scan_input_directions", directions))
    for index, (new, old) in enumerate(zip(inner.outputs, node.outputs, strict=True)):
        new.name, new.type = f"{node.name}.result{index}", old.type
    outer = ir.Graph(samples, inner.outputs, nodes=[inner], name=f"{body.name}.batch")
    attributes = [ir.AttrGraph("body", outer), ir.AttrInt64("num_scan_inputs", len(operands))]
    whole = ir.Node("", "Scan", operands, attributes, num_outputs=len(node.outputs), name=node.name)
    graph = node.graph
    assert graph is not None
    graph.insert_before(node, whole)
    site.replace(*whole.outputs)
