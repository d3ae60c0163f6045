"""Load a graph in ONNX Runtime with memory-mapped weights, and run one decode step.

python -m benchmarks.decode DIRECTORY
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

PAST = 4


def main() -> int:
    """Load and run the graph; return 1 if an output isn't finite."""
    import numpy

    from onnxport.validation.mapped import open_mapped

    started = time.perf_counter()
    session = open_mapped(Path(sys.argv[1]) / "model.onnx")
    loaded = time.perf_counter()
    feeds = {node.name: _value(node, numpy) for node in session.get_inputs()}
    outputs = session.run(None, feeds)
    done = time.perf_counter()
    print(f"loaded in {loaded - started:.1f} s, one step in {done - loaded:.1f} s, {len(outputs)} outputs")
    if not all(numpy.isfinite(numpy.asarray(output, dtype="float32")).all() for output in outputs):
        print("error: an output isn't finite")
        return 1
    return 0


def _value(node: Any, numpy: Any) -> Any:
    """Return a graph input for one new token after `PAST` cached tokens."""
    sizes = {"batch_size": 1, "sequence_length": 1, "past_sequence_length": PAST}
    shape = [
        axis if isinstance(axis, int) else sum(sizes[part.strip()] for part in axis.split("+")) for axis in node.shape
    ]
    dtype = {"tensor(int64)": "int64", "tensor(float)": "float32", "tensor(float16)": "float16"}[node.type]
    return numpy.full(shape, PAST if node.name == "position_ids" else 1, dtype=dtype)


if __name__ == "__main__":
    sys.exit(main())
