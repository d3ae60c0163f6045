"""Run pairs in worker processes; hanging or crashed ones are replaced, and pairs with a result aren't run again."""

from __future__ import annotations

import json
import logging
import multiprocessing
import queue
import sys
import threading
import time
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

PAIR_SECONDS = 180.0
"""Time limit for one pair, after which its worker is killed."""
START_SECONDS = 300.0
"""Time limit for the imports of a worker."""
IDLE_SECONDS = 2.0
"""Time limit for an idle worker to exit."""
PAIRS_PER_WORKER = 40
"""Number of pairs after which a worker is replaced, to free the memory that PyTorch's tracing retains."""

Pair = tuple[str, str]


@dataclass(frozen=True)
class Job:
    """The function that is run for each pair.

    Attributes:
        function: `module:name` of a function that takes the pair and the directory, and returns the record.
        key: key of the second item of a pair in a record.
    """

    function: str = "conformance.exports:run_pair"
    key: str = "feature"


def run(
    pairs: list[Pair],
    *,
    directory: Path,
    results: Path,
    jobs: int,
    seconds: float = PAIR_SECONDS,
    job: Job | None = None,
) -> list[dict[str, Any]]:
    """Export pairs, and append one JSON line for each to `results`; pairs that already have a line are skipped.

    Args:
        pairs: the pairs to export.
        directory: directory of checkpoints and outputs.
        results: file of JSON lines; it may exist.
        jobs: worker processes.
        seconds: time limit for one pair.
        job: function to run for each; None for `Job()`.

    Returns:
        One record per pair, in the order of `pairs`.
    """
    job = job or Job()
    done = read(results, job.key)
    waiting: queue.SimpleQueue[Pair] = queue.SimpleQueue()
    todo = [pair for pair in pairs if pair not in done]
    for pair in todo:
        waiting.put(pair)
    results.parent.mkdir(parents=True, exist_ok=True)
    lock = threading.Lock()

    def keep(pair: Pair, record: dict[str, Any]) -> None:
        with lock:
            done[pair] = {"model_type": pair[0], job.key: pair[1], **record}
            with results.open("a", encoding="utf-8") as file:
                file.write(json.dumps(done[pair]) + "\n")
            print(_line(len([p for p in todo if p in done]), len(todo), pair, done[pair]), file=sys.stderr, flush=True)

    def drive() -> None:
        worker = Worker(directory, threads=jobs, function=job.function)
        try:
            while True:
                try:
                    pair = waiting.get_nowait()
                except queue.Empty:
                    return
                keep(pair, worker.do(pair, seconds))
        finally:
            worker.stop()

    drivers = [threading.Thread(target=drive) for _ in range(min(jobs, len(todo)))]
    for driver in drivers:
        driver.start()
    for driver in drivers:
        driver.join()
    return [done[pair] for pair in pairs if pair in done]


def read(results: Path, key: str = "feature") -> dict[Pair, dict[str, Any]]:
    """Return the records of a results file by pair; a line that a crash truncated is skipped."""
    found: dict[Pair, dict[str, Any]] = {}
    if results.is_file():
        for line in results.read_text(encoding="utf-8").splitlines():
            try:
                record = json.loads(line)
            except json.JSONDecodeError:
                continue
            found[record["model_type"], record[key]] = record
    return found


class Worker:
    """Run one process that exports pairs, and replace it if it hangs or crashes, or after `PAIRS_PER_WORKER` pairs."""

    def __init__(self, directory: Path, threads: int = 1, function: str = Job.function) -> None:
        self._directory, self._function = directory, function
        self._torch_threads = max(1, multiprocessing.cpu_count() // threads)
        self._process: Any = None
        self._pipe: Connection | None = None
        self._count = 0

    def do(self, pair: Pair, seconds: float) -> dict[str, Any]:
        """Export one pair; a hang or crash of the process is a record, too."""
        if self._process is None or self._count >= PAIRS_PER_WORKER:
            self.stop()
            self._start()
        assert self._pipe is not None
        self._count += 1
        start = time.perf_counter()
        try:
            self._pipe.send(pair)
            if self._pipe.poll(seconds):
                record: dict[str, Any] = self._pipe.recv()
                return record
            status, message = "timeout", f"no result after {seconds:.0f} s"
        except (EOFError, BrokenPipeError, ConnectionResetError):
            self._process.join(10)
            status, message = "crashed", f"the process ended with exit code {self._process.exitcode}"
        self.stop()
        return {"status": status, "seconds": round(time.perf_counter() - start, 1), "message": message}

    def stop(self) -> None:
        """Stop the process, if there is one: an idle one exits when its pipe is closed, a busy one is killed."""
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None
        if self._process is not None:
            self._process.join(IDLE_SECONDS)
            self._process.kill()
            self._process.join()
            self._process = None

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=_work, args=(theirs, (self._directory, self._function), self._torch_threads), daemon=True
        )
        self._process.start()
        theirs.close()
        self._count = 0
        if not self._pipe.poll(START_SECONDS) or self._pipe.recv() != "ready":
            raise RuntimeError("a worker process didn't start")


def _work(pipe: Connection, work: tuple[Path, str], torch_threads: int) -> None:
    """Serve pairs in a worker process until the pipe is closed."""
    import warnings

    import torch

    declared = _declare_operators()  # they exist as long as this reference
    import transformers

    directory, (module, _, name) = work[0], work[1].partition(":")
    function = getattr(import_module(module), name)
    warnings.simplefilter("ignore")
    logging.getLogger("onnxport").setLevel(logging.ERROR)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(torch_threads)
    pipe.send("ready")
    while True:
        try:
            pair = pipe.recv()
        except EOFError:
            del declared
            return
        pipe.send(function(*pair, directory))


def _declare_operators() -> Any:
    """Declare torchvision's operators, if its binary is of another build than torch and can't be loaded.

    timm imports torchvision, whose package has no build for the CPU build of torch; no pair runs these operators.
    """
    import torch

    if find_spec("torchvision") is None or "+cpu" not in torch.__version__:
        return None
    operators = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return operators


def _line(number: int, total: int, pair: Pair, record: dict[str, Any]) -> str:
    text = f"[{number}/{total}] {':'.join(pair)} {record['status']} {record['seconds']} s"
    return "\n    ".join([text, *messages(record)])


def messages(record: dict[str, Any]) -> list[str]:
    """Return one line for each failed export of a pair."""
    if "message" in record:
        return [str(record["message"])]
    failed = {name: record[name] for name in ("facade", "public") if record.get(name, {}).get("status") == "failed"}
    return [f"{name}: {export['message']}" for name, export in failed.items()]
