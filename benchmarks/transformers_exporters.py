"""Export with `transformers.exporters` as its documentation says.

    python -m benchmarks.transformers_exporters MODEL OUTPUT TASK

Models that generate are taken apart by `export_for_generation`, its way to graphs with a cache; others are one graph.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any


def main() -> None:
    """Load, export, save."""
    source, output, task = sys.argv[1:]
    import torch
    import transformers
    from transformers.exporters.exporter_onnx import OnnxConfig, OnnxExporter

    torch.manual_seed(0)
    config = transformers.AutoConfig.from_pretrained(source)
    model = getattr(transformers, config.architectures[0]).from_pretrained(source).eval()
    exporter, wanted = OnnxExporter(), OnnxConfig(dynamic=True)
    with torch.no_grad():
        export = exporter.export_for_generation if task.endswith("-with-past") else exporter.export
        exported = export(model, _inputs(config, model.main_input_name), wanted)
    exported.save_pretrained(Path(output))


def _inputs(config: Any, name: str) -> dict[str, Any]:
    import torch

    if name == "pixel_values":
        return {name: torch.rand(2, config.num_channels, config.image_size, config.image_size)}
    if name == "input_features":
        return {name: torch.rand(2, config.num_mel_bins, 2 * config.max_source_positions)}
    tokens = torch.randint(3, config.vocab_size - 3, (2, 8))
    return {name: tokens, "attention_mask": torch.ones_like(tokens)}


if __name__ == "__main__":
    main()
