"""What the scripts of the clients share: they read a case, compare with PyTorch's results, and print their own."""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

TOLERANCE = 1e-4
Run = Callable[[str, dict[str, Any]], str]


def arrays(case: dict[str, Any]) -> dict[str, Any]:
    """Return the inputs of a case as arrays."""
    return {
        name: np.array(value["data"], dtype=value["type"]).reshape(value["shape"])
        for name, value in case["inputs"].items()
    }


def same(found: Any, expected: Any) -> str:
    """Return the largest difference of two arrays, in words; raise AssertionError if it is too large."""
    largest = float(np.abs(np.asarray(found).ravel() - np.asarray(expected).ravel()).max())
    assert largest <= TOLERANCE, f"differs by {largest:.1e}"
    return f"{largest:.0e}"


def same_outputs(outputs: dict[str, Any], case: dict[str, Any]) -> str:
    """Return the largest difference of the outputs that PyTorch returned, too."""
    names = [name for name in outputs if name in case["outputs"]]
    assert names, f"no output of {list(case['outputs'])} among {list(outputs)}"
    found, expected = (
        np.concatenate([np.ravel(values[name]) for name in names]) for values in (outputs, case["outputs"])
    )
    return same(found, expected)


def same_tokens(found: Sequence[int], expected: Sequence[int]) -> str:
    """Check tokens, and return their number in words."""
    assert list(found) == list(expected), f"tokens {list(found)}, PyTorch's are {list(expected)}"
    return "tokens ="


def main(clients: dict[str, Run]) -> None:
    """Run the cases of the command line, `NAME=DIRECTORY=CASE`, and print a line of JSON for each."""
    for argument in sys.argv[1:]:
        print(json.dumps(_result(clients, *argument.split("="))), flush=True)


def _result(clients: dict[str, Run], name: str, directory: str, file: str) -> dict[str, Any]:
    case = json.loads(Path(file).read_text())
    try:
        return {"case": name, "passed": True, "result": clients[name](directory, case)}
    except Exception as error:
        traceback.print_exc()
        return {"case": name, "passed": False, "result": f"{type(error).__name__}: {error}"[:300]}
