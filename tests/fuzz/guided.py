"""Fuzz a reader with inputs that reach new code: `python -m tests.fuzz.guided test_safetensors -max_total_time=600`.

atheris instruments the package, and hypothesis turns the bytes that it mutates into the examples of a test of
`test_readers`, one without fixtures. Further arguments are those of libFuzzer.
"""

from __future__ import annotations

import sys

import atheris  # type: ignore[import-not-found]  # installed on request, by `make fuzz-guided`

with atheris.instrument_imports(include=["onnxport"]):
    from tests.fuzz import test_readers


def main() -> None:
    """Fuzz until an input fails or the time is over."""
    test = getattr(test_readers, sys.argv.pop(1))
    atheris.Setup(sys.argv, test.hypothesis.fuzz_one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
