"""GraphIR: the graph every stage of Zenith works on (a thin wrapper of an ONNX IR model)."""

from zenith.ir.graph import DOMAIN, DOMAIN_VERSION, OPSET, SOURCE_KEY, GraphIR, describe

__all__ = ["DOMAIN", "DOMAIN_VERSION", "OPSET", "SOURCE_KEY", "GraphIR", "describe"]
