"""`onnxport bench DIR`: throughput, latency and memory of an exported model."""

from __future__ import annotations

import argparse

from onnxport.cli._outcome import DONE
from onnxport.cli._sampling import positive_int


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
    add("--threads", type=positive_int, metavar="N", help="intra-op threads of ONNX Runtime")
    add("--device", default="cpu", help="cpu, or cuda with an optional index (default: cpu)")
    add("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    """Measure, and print the results."""
    from dataclasses import asdict

    from onnxport.cli._rendering import bytes_text, print_json, print_table
    from onnxport.runtime.bench import Workload, bench
    from onnxport.runtime.settings import RunSettings

    workload = Workload(arguments.prompt_tokens, arguments.new_tokens, arguments.batch)
    results = bench(arguments.directory, workload, RunSettings(arguments.device, threads=arguments.threads))
    if arguments.json:
        print_json(asdict(results))
        return DONE
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
    rows.append(("peak memory", bytes_text(results.peak_memory_bytes)))
    print_table("", ("measurement", "value"), rows)
    return DONE
