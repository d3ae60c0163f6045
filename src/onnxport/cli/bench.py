"""`onnxport bench DIR`: throughput, latency and memory of an exported model."""

from __future__ import annotations

import argparse
import json
import subprocess
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from onnxport._process import python_command
from onnxport.cli._options import add_dtype
from onnxport.cli._outcome import DONE
from onnxport.cli._sampling import positive_int
from onnxport.errors import ValidationError

if TYPE_CHECKING:
    from onnxport.runtime.bench import Measurements


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    add = parser.add_argument
    add("directory", metavar="DIR", help="directory that onnxport export wrote")
    add("--prompt-tokens", type=positive_int, default=128, metavar="N", help="length of the prompt (default: 128)")
    add(
        "--new-tokens",
        type=positive_int,
        default=128,
        metavar="N",
        help="tokens to generate, or runs of a model that doesn't generate (default: 128)",
    )
    add("--batch", type=positive_int, default=1, metavar="N", help="batch size (default: 1)")
    add_dtype(parser)
    add("--threads", type=positive_int, metavar="N", help="intra-op threads of ONNX Runtime")
    add("--device", default="cpu", help="cpu, or cuda with an optional index (default: cpu)")
    add("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    """Measure, and print the results: of one precision, or of all of a directory side by side."""
    from onnxport.bundles.manifest import open_manifest
    from onnxport.cli._rendering import print_json, print_table

    names = (arguments.dtype,) if arguments.dtype else open_manifest(Path(arguments.directory)).dtypes
    if len(names) == 1:
        results = {names[0]: _measure(arguments)}
    else:
        results = {name: _measure_apart(arguments, name) for name in names}
    if arguments.json:
        print_json(asdict(next(iter(results.values()))) if len(results) == 1 else _plain(results))
        return DONE
    columns = [dict(_rows(measured)) for measured in results.values()]
    labels = list(dict.fromkeys(label for column in columns for label in column))
    titles = results if len(results) > 1 else ("value",)
    print_table(
        "", ("measurement", *titles), [(label, *(column.get(label, "") for column in columns)) for label in labels]
    )
    return DONE


def _measure(arguments: argparse.Namespace) -> Measurements:
    from onnxport.runtime.bench import Workload, bench
    from onnxport.runtime.settings import RunSettings

    workload = Workload(arguments.prompt_tokens, arguments.new_tokens, arguments.batch)
    settings = RunSettings(arguments.device, threads=arguments.threads, dtype=arguments.dtype)
    return bench(arguments.directory, workload, settings)


def _measure_apart(arguments: argparse.Namespace, dtype: str) -> Measurements:
    """Measure one precision in a process of its own, whose peak memory isn't that of another."""
    from onnxport.runtime.bench import Measurements

    command = python_command("-m", "onnxport", "bench", arguments.directory, "--dtype", dtype, "--json")
    for name in ("prompt_tokens", "new_tokens", "batch", "threads", "device"):
        value = getattr(arguments, name)
        command += [] if value is None else [f"--{name.replace('_', '-')}", str(value)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = done.stderr.strip().removeprefix("onnxport: error: ") or f"exit status {done.returncode}"
        raise ValidationError(f"{dtype} can't be measured: {reason}")
    return Measurements(**json.loads(done.stdout))


def _plain(results: dict[str, Measurements]) -> dict[str, object]:
    return {name: asdict(measured) for name, measured in results.items()}


def _rows(results: Measurements) -> list[tuple[str, str]]:
    from onnxport.reports.formats import bytes_text

    rows = [("load", f"{results.load_seconds:.2f} s")]
    if results.prefill_tokens_per_second is not None:
        rows.append((f"prefill, {results.prompt_tokens} tokens", f"{results.prefill_tokens_per_second:.0f} tokens/s"))
    if results.decode_tokens_per_second is not None:
        rows.append(("decode", f"{results.decode_tokens_per_second:.1f} tokens/s"))
    step = "one token" if results.decode_tokens_per_second is not None else "one run"
    latency = ", ".join(f"{name} {value:.2f} ms" for name, value in results.latency_ms.items())
    rows.append((f"latency of {step}", latency))
    if results.session_share is not None:
        rows.append(("of which ONNX Runtime", f"{100 * results.session_share:.1f} %"))
    return [*rows, ("peak memory", bytes_text(results.peak_memory_bytes))]
