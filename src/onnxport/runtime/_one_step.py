"""Load and run the graphs of a directory once, as the main function of a process with a limit of memory.

usage: python -m onnxport.runtime._one_step DIR DTYPE BYTES; the result is JSON on standard output.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from onnxport.bundles.manifest import open_manifest
from onnxport.containment import inside
from onnxport.errors import NoKernelError, OnnxportError, OptionError, UnsupportedError
from onnxport.runtime.bench import Workload, bench
from onnxport.runtime.directory import Directory
from onnxport.runtime.graph import Graph
from onnxport.runtime.settings import RunSettings

_TOKENS = 8
_OUT_OF_MEMORY = "llocate memory"
"""Part of ONNX Runtime's message for a tensor that is too large, which has no exception of its own."""


def main(path: str, dtype: str, limit: int) -> dict[str, str]:
    """Run the graphs.

    Args:
        path: the directory.
        dtype: precision of the graphs.
        limit: maximum of the process's memory, in bytes.

    Returns:
        `status`: passed, failed, or `not run` if no synthetic inputs fit the graphs, the CPU has no kernels for them,
        or the layout's client alone runs them, and a message.
    """
    _limit_memory(limit)
    settings = RunSettings(threads=1, dtype=dtype)
    try:
        manifest = open_manifest(Path(path))
        if manifest.client_only:
            for item in manifest.of_dtype(dtype).components:
                Graph(inside(Path(path), item.file), settings)
            return {"status": "not run", "message": f"the client of the layout {manifest.layout} alone runs the graphs"}
        directory = Directory(path, settings)
        for name in directory.component_names:
            directory.graph(name)
    except NoKernelError as error:  # bfloat16 on the CPU
        return {"status": "not run", "message": str(error)}
    except OnnxportError as error:
        return {"status": "failed", "message": str(error)}
    try:
        bench(path, Workload(_TOKENS, 1), settings)
    except (UnsupportedError, OptionError) as error:
        is_failed = _OUT_OF_MEMORY in str(error)
        return {"status": "failed" if is_failed else "not run", "message": str(error)}
    except OnnxportError as error:
        return {"status": "failed", "message": str(error)}
    return {"status": "passed", "message": ""}


def _limit_memory(limit: int) -> None:
    try:
        import resource
    except ImportError:  # Windows
        return
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(sys.argv[1], sys.argv[2], int(sys.argv[3]))))
