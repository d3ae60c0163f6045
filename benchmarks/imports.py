"""Import the modules that an export imports, and nothing else, as the baseline of its memory.

python -m benchmarks.imports record FILE ARGUMENT…   # run `onnxport ARGUMENT…`, write the names of the imported modules
python -m benchmarks.imports load FILE               # import them in the same order
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from pathlib import Path


def main() -> int:
    """Record or import the modules."""
    verb, file, *arguments = sys.argv[1:]
    if verb == "load":
        for name in Path(file).read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(Exception):  # some modules are created by code and can't be imported by name
                importlib.import_module(name)
        return 0
    from onnxport.cli import main as command

    code = command(arguments)
    names = [name for name in list(sys.modules) if name != "__main__" and not name.startswith("benchmarks")]
    Path(file).write_text("\n".join(names) + "\n", encoding="utf-8")
    return code


if __name__ == "__main__":
    sys.exit(main())
