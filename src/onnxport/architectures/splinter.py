"""Splinter: questions are found in the text."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture

ARCHITECTURES = (Architecture(("splinter",), left_out={"question_positions": "that of the first question token"}),)
