"""Export with `transformers.exporters` as in its documentation.

    python -m benchmarks.transformers_exporters MODEL OUTPUT TASK

`export_for_generation` exports generative models to several graphs with a cache; other models become one graph.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any


def main() -> None:
    """Load the model, export it and save the graphs."""
    source, output, task = sys.argv[1:]
    import torch
    import transformers
    from transformers.exporters.exporter_onnx import OnnxConfig, OnnxExporter

    torch.manual_seed(0)
    config = transformers.AutoConfig.from_pretrained(source)
    model = getattr(transformers, config.architectures[0]).from_pretrained(source).eval()
    exporter, export_config = OnnxExporter(), OnnxConfig(dynamic=True)
    with torch.no_grad():
        export = exporter.export_for_generation if task.endswith("-with-past") else exporter.export
        exported = export(model, _inputs(config, model.main_input_name), export_config)
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
