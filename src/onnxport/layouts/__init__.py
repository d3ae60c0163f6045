"""Layouts of exported directories, one file for each client: where files are, and what its settings need.

`rearrange` is `onnxport layout`; the other names are those that a layout of another package needs.
"""

from onnxport.layouts._layout import Exported, Layout, Settings
from onnxport.layouts._rearrange import rearrange

__all__ = ["Exported", "Layout", "Settings", "rearrange"]
