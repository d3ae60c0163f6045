"""Map names of `--layout` to the files that declare them.

Other packages add layouts with an entry point in the group `onnxport.layouts` whose value is a `Layout`. If a name is
in both, the other package's layout takes precedence.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from importlib import import_module
from importlib.metadata import entry_points

from onnxport.errors import OptionError, UnsupportedError
from onnxport.layouts._layout import Layout
from onnxport.options import DEFAULT_LAYOUT, ExportOptions

ENTRY_POINTS = "onnxport.layouts"
"""Group of the entry points by which other packages add layouts."""
MODULES = {
    "transformers.js": "transformers_js",
    "genai": "genai",
    "triton": "triton",
}
"""Name to the module of `onnxport.layouts` whose `LAYOUT` declares it."""


def layout_of(name: str) -> Layout:
    """Return a layout.

    Args:
        name: its name.

    Raises:
        OptionError: there is none of this name.
        UnsupportedError: an entry point isn't a `Layout`.
    """
    for point in entry_points(group=ENTRY_POINTS, name=name):
        added = point.load()
        if not isinstance(added, Layout):
            raise UnsupportedError(
                f"the entry point {point.name} = {point.value} of {ENTRY_POINTS} is a {type(added).__name__}; it must "
                "be a Layout"
            )
        return added
    if name not in MODULES:
        raise OptionError(f"--layout {name!r} is not one of: {', '.join(layout_names())}")
    declared: Layout = import_module(f"{__package__}.{MODULES[name]}").LAYOUT
    return declared


def layout_names() -> tuple[str, ...]:
    """Return the names of all layouts, with those of other packages."""
    return tuple(dict.fromkeys((*MODULES, *(point.name for point in entry_points(group=ENTRY_POINTS)))))


def completed(options: ExportOptions, model_type: str, architectures: Iterable[str] = ()) -> ExportOptions:
    """Return the options of an export with its precisions, and with the defaults of its layout.

    Args:
        options: the options as they were chosen.
        model_type: the model type.
        architectures: the classes that `config.json` names.

    Raises:
        OptionError: there is no such layout.
        UnsupportedError: an entry point isn't a `Layout`.
    """
    if options.layout != DEFAULT_LAYOUT:
        options = layout_of(options.layout).with_defaults(options, model_type, architectures)
    return replace(options, dtype=",".join(options.dtypes))
