"""The error tree. Every error that a user can cause is one of these; the CLI prints it and exits.

OnnxportError
├── OptionError            an option's value is out of range (also a ValueError)
├── MissingDependencyError a package that this operation needs isn't installed (also an ImportError)
├── CheckpointError        the checkpoint can't be read
│   ├── CheckpointNotFoundError   no such directory, repository or file
│   ├── CorruptCheckpointError    a file is truncated, malformed or contradicts another
│   ├── UntrustedCodeError        the checkpoint needs code to be executed and that wasn't allowed
│   └── WeightsMismatchError      parameters without tensor, leftover tensors, wrong shapes
├── UnsupportedError       the model type or the task isn't supported
├── TraceError             the model couldn't be captured as an ONNX graph
├── ValidationError        the exported graph differs from the original
│   └── NoKernelError             ONNX Runtime can't run it in its dtype
└── OutputError            the output can't be written, or holds something that would be lost
"""

from __future__ import annotations


class OnnxportError(Exception):
    """Base of all errors that onnxport raises on purpose."""


class OptionError(OnnxportError, ValueError):
    """Say that an option's value can't be used, naming the option, the value and what is allowed."""


class MissingDependencyError(OnnxportError, ImportError):
    """Say that a package is missing, with the exact command that installs it."""


class CheckpointError(OnnxportError):
    """Say that a checkpoint can't be read."""


class CheckpointNotFoundError(CheckpointError):
    """Say that the checkpoint, or a file that it must have, isn't there."""


class CorruptCheckpointError(CheckpointError):
    """Say that a file of the checkpoint is truncated, malformed, or contradicts another file."""


class UntrustedCodeError(CheckpointError):
    """Say that reading the checkpoint would execute code that the user hasn't allowed."""


class WeightsMismatchError(CheckpointError):
    """Say which parameters have no tensor, which tensors are left over and which shapes differ."""


class UnsupportedError(OnnxportError):
    """Say that a model type or task isn't supported, naming the nearest and what is supported."""


class TraceError(OnnxportError):
    """Say that the model couldn't be captured as an ONNX graph."""


class ValidationError(OnnxportError):
    """Say that the exported graph doesn't compute what the original computes."""


class NoKernelError(ValidationError):
    """Say that ONNX Runtime has no kernel for an operator of the graph in its dtype."""


class OutputError(OnnxportError):
    """Say that the output can't be written, or that writing would lose what is there."""
