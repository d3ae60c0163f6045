"""Stamp: find the repeated layers of a graph, prove that they are isomorphic, and repeat them to full depth."""

from onnxport.stamping.layout import Layers, interleaved
from onnxport.stamping.stamp import StampError, stamp

__all__ = ["Layers", "StampError", "interleaved", "stamp"]
