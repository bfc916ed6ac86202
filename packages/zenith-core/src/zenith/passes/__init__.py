"""Graph rewrites: canonicalisation for every target, and the fusions backends pick from by name."""

from zenith.passes.base import Pass, PassRecord, Report
from zenith.passes.manager import PassManager, optimize_graph
from zenith.passes.pipelines import CANONICALIZE, LOWER_CPU
from zenith.passes.registry import PASSES, get_pass, register_pass

__all__ = [
    "CANONICALIZE",
    "LOWER_CPU",
    "PASSES",
    "Pass",
    "PassManager",
    "PassRecord",
    "Report",
    "get_pass",
    "optimize_graph",
    "register_pass",
]
