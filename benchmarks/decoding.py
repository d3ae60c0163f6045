"""Measure prefill and decode of int4 decoders: onnxport, onnxruntime-genai and llama.cpp.

python -m benchmarks.decoding [--runs 3]      # prints the section, stores the figures for `python -m benchmarks page`

All sides have 4-bit weights in blocks of 32, and compute with the same number of threads. Each is one process for all
rounds, which loads, warms up, and then in each round reads a prompt and generates tokens, one after another.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from benchmarks.environments import set_up, set_up_node
from benchmarks.gguf_file import write_gguf
from benchmarks.results import measured_at, new_record, write_record
from benchmarks.rounds import Bench
from benchmarks.rows import LLAMAS
from benchmarks.served import serve, started
from benchmarks.sides import REPOSITORY, SIDES, WORK, command

RESULT = WORK / "results" / "decoding.json"
PROMPT, NEW = 512, 64
THREADS = (1, 2)
NODE_PACKAGE = "node-llama-cpp@3.22.1"
MINIMUM_RATIO = {
    ("onnxruntime-genai", "step"): 1.05,
    ("onnxruntime-genai", "prefill"): 1.0,
    ("llama.cpp", "step"): 1.0,
}
"""(Side, figure) to the minimum of its seconds divided by onnxport's."""
Rounds = dict[str, list[dict[str, float]]]


def main() -> int:
    """Measure, or run one side."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.decoding")
    parser.add_argument("--runs", type=int, default=3, help="rounds (3)")
    parser.add_argument("--side", nargs=3, metavar=("SIDE", "DIR", "THREADS"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        side, directory, threads = arguments.side
        return serve(lambda: {"onnxport": _ours, "genai": _genai}[side](directory, int(threads)))
    record = new_record(arguments.runs)
    for model in LLAMAS:
        for threads in THREADS:
            record["sides"][f"{model}, {threads}"] = _measure(model, threads, arguments.runs)
    write_record(RESULT, record)
    print(section(record))
    return 0


def section(result: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    lines = [
        f"## j. Decoding in int4: a token after a prompt of {PROMPT}, and the prompt",
        "",
        "| checkpoint, threads | side | a token | ours is faster | reached | prompt | ours is faster | reached |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for where, sides in result["sides"].items():
        ours = _medians(sides["onnxport"])
        for side, runs in sides.items():
            seconds = _medians(runs)
            cells = [
                f"{seconds[figure] * 1000:.4g} ms | {_judge(side, figure, seconds[figure] / ours[figure])}"
                for figure in ("step", "prefill")
            ]
            lines.append(f"| {where} | {side} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", f"{measured_at(result)} llama.cpp has Q4_0 for all matrices ({NODE_PACKAGE}).", ""])


def _judge(side: str, figure: str, ratio: float) -> str:
    if side == "onnxport":
        return " | "
    minimum = MINIMUM_RATIO.get((side, figure))
    reached = "" if minimum is None else f"≥ {minimum} x: {'yes' if ratio >= minimum else '**no**'}"
    return f"{ratio:.2f} x | {reached}"


def _medians(runs: list[dict[str, float]]) -> dict[str, float]:
    return {figure: statistics.median(run[figure] for run in runs) for figure in ("step", "prefill")}


def _measure(model: str, threads: int, runs: int) -> Rounds:
    commands = _commands(model, threads)
    found: Rounds = {side: [] for side in commands}
    with ExitStack() as stack:
        sides = {side: stack.enter_context(started(words)) for side, words in commands.items()}
        for _ in range(runs):
            for side, process in sides.items():
                found[side].append(process.ask())
    return found


def _commands(model: str, threads: int) -> dict[str, list[str]]:
    """Export a checkpoint for each side, once, and return the commands of the sides."""
    checkpoint = Bench(WORK, gigabytes=1, limit=3600).checkpoint(model)
    folder = WORK / "decoding" / model
    folder.mkdir(parents=True, exist_ok=True)
    for side in ("int4", "genai-int4"):
        if SIDES[side].environment:
            set_up(SIDES[side].environment, WORK / "environments")
        if not (folder / side).exists():
            values = {"model": str(checkpoint), "output": str(folder / side), "task": "text-generation-with-past"}
            with (folder / f"{side}.log").open("w") as log:
                subprocess.run(command(SIDES[side], WORK / "environments", values), check=True, stdout=log, stderr=log)
    if not (folder / "q4_0.gguf").exists():
        write_gguf(checkpoint, folder / "q4_0.gguf")
    module = ["-m", "benchmarks.decoding", "--side"]
    genai = str(WORK / "environments" / "genai" / "bin" / "python")
    numbers = [str(number) for number in (threads, PROMPT, NEW)]
    script = REPOSITORY / "benchmarks" / "llama_cpp.mjs"
    return {
        "onnxport": [sys.executable, *module, "onnxport", str(folder / "int4"), str(threads)],
        "onnxruntime-genai": [genai, *module, "genai", str(folder / "genai-int4"), str(threads)],
        "llama.cpp": [
            "node",
            str(script),
            str(set_up_node(WORK / "environments" / "node", (NODE_PACKAGE,))),
            str(folder / "q4_0.gguf"),
            *numbers,
        ],
    }


def _ours(directory: str, threads: int) -> Callable[[], dict[str, float]]:
    from onnxport.runtime.bench import Workload, bench
    from onnxport.runtime.settings import RunSettings

    def measure() -> dict[str, float]:
        found = bench(directory, Workload(PROMPT, NEW), RunSettings(threads=threads))
        assert found.prefill_tokens_per_second is not None
        return {"prefill": PROMPT / found.prefill_tokens_per_second, "step": found.latency_ms["p50"] / 1000}

    return measure


def _genai(directory: str, threads: int) -> Callable[[], dict[str, float]]:
    import onnxruntime_genai as genai

    config = genai.Config(directory)
    config.overlay(json.dumps({"model": {"decoder": {"session_options": {"intra_op_num_threads": threads}}}}))
    model = genai.Model(config)

    def measure() -> dict[str, float]:
        parameters = genai.GeneratorParams(model)
        parameters.set_search_options(max_length=PROMPT + NEW, min_length=PROMPT + NEW)
        generator = genai.Generator(model, parameters)
        start = time.perf_counter()
        generator.append_tokens([1] * PROMPT)
        generator.generate_next_token()
        prefill, steps = time.perf_counter() - start, []
        for _ in range(NEW - 1):
            start = time.perf_counter()
            generator.generate_next_token()
            steps.append(time.perf_counter() - start)
        return {"prefill": prefill, "step": statistics.median(steps)}

    return measure


if __name__ == "__main__":
    sys.exit(main())
