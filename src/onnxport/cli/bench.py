"""`onnxport bench DIR`: how fast an exported model is, and how much memory it takes."""

from __future__ import annotations

import argparse

from onnxport.cli._outcome import DONE
from onnxport.cli._sampling import count


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    add = parser.add_argument
    add("directory", metavar="DIR", help="what onnxport export wrote")
    add("--prompt-tokens", type=count, default=128, metavar="N", help="length of the prompt or text (default: 128)")
    add("--new-tokens", type=count, default=128, metavar="N", help="tokens to generate, or runs (default: 128)")
    add("--batch", type=count, default=1, metavar="N", help="texts at once (default: 1)")
    add("--threads", type=count, metavar="N", help="threads of one operator")
    add("--device", default="cpu", help="cpu, or cuda with an optional number (default: cpu)")
    add("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    """Measure, and print the figures."""
    from dataclasses import asdict

    from onnxport.cli._rendering import bytes_text, print_json, print_table
    from onnxport.runtime.bench import Workload, bench
    from onnxport.runtime.settings import RunSettings

    workload = Workload(arguments.prompt_tokens, arguments.new_tokens, arguments.batch)
    found = bench(arguments.directory, workload, RunSettings(arguments.device, threads=arguments.threads))
    if arguments.json:
        print_json(asdict(found))
        return DONE
    rows = [("load", f"{found.load_seconds:.2f} s")]
    if found.prefill_tokens_per_second is not None:
        rows.append((f"prefill, {found.prompt_tokens} tokens", f"{found.prefill_tokens_per_second:.0f} tokens/s"))
    if found.decode_tokens_per_second is not None:
        rows.append(("decode", f"{found.decode_tokens_per_second:.1f} tokens/s"))
    step = "one token" if found.decode_tokens_per_second is not None else "one run"
    rows.append((step, ", ".join(f"{name} {value:.2f} ms" for name, value in found.latency_ms.items())))
    if found.session_share is not None:
        rows.append(("of which ONNX Runtime", f"{100 * found.session_share:.1f} %"))
    rows.append(("peak memory", bytes_text(found.peak_memory_bytes)))
    print_table("", ("what", "measured"), rows)
    return DONE
