"""Measuring a segmenter: the protocols of the benchmarks, what they measure, submissions and tables."""

from .protocols import PROTOCOLS, Protocol, protocol_named
from .runner import evaluate_segmenter
from .tables import flatten_results, results_table

__all__ = ["PROTOCOLS", "Protocol", "evaluate_segmenter", "flatten_results", "protocol_named", "results_table"]
