"""Put the precisions of a directory side by side: bytes, what they lose, and how fast they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from onnxport.bundles.manifest import Manifest
from onnxport.runtime.bench import Measurements
from onnxport.validation.report import Loss, ValidationReport


@dataclass(frozen=True)
class Precision:
    """Hold what is known of one precision.

    Attributes:
        name: as `--dtype` names it.
        bytes: size of its graphs and their weights.
        share: of the largest precision, in percent.
        losses: what it loses against the original.
        speeds: label of a measurement to its text.
    """

    name: str
    bytes: int
    share: float
    losses: tuple[Loss, ...]
    speeds: dict[str, str]


def precisions(manifest: Manifest, report: ValidationReport, measured: Mapping[str, Measurements]) -> list[Precision]:
    """Return the precisions of a directory, in the order of the export.

    Args:
        manifest: its manifest.
        report: its validation.
        measured: precision to what was measured; empty if nothing was.
    """
    sizes = {name: sum(item.bytes for item in manifest.of_dtype(name).components) for name in manifest.dtypes}
    largest = max(sizes.values(), default=0) or 1
    return [
        Precision(
            name or "fp32",
            size,
            100 * size / largest,
            tuple(loss for loss in report.losses if loss.precision == name),
            _speeds(measured[name]) if name in measured else {},
        )
        for name, size in sizes.items()
    ]


def _speeds(measured: Measurements) -> dict[str, str]:
    found = {}
    if measured.prefill_tokens_per_second is not None:
        found["prompt"] = f"{measured.prefill_tokens_per_second:.0f} tokens/s"
    if measured.decode_tokens_per_second is not None:
        found["generation"] = f"{measured.decode_tokens_per_second:.1f} tokens/s"
    elif measured.latency_ms:
        name, value = next(iter(measured.latency_ms.items()))
        found[f"one run ({name})"] = f"{value:.2f} ms"
    return {**found, "peak memory": f"{measured.peak_memory_bytes / 1e6:.0f} MB"}
