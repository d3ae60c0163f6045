"""PP-OCR: images of a line of text, and settings of their tiny models."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxport.architectures._architecture import Architecture, Tiny

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_RATIOS = (("longratio", 7), ("midratio", 5), ("shortratio", 3))
_TEXT_REGIONS = {
    "scale_factor_list": [1, 2, 4, 8],
    "kernel_list": [3, 2, 2],
    "intraclass_block_config": {
        "reduce_channel": [1, 1, 0],
        "return_channel": [1, 1, 0],
        **{f"vertical_long_to_small_conv_{ratio}": [[n, 1], [1, 1], [n // 2, 0]] for ratio, n in _RATIOS},
        **{f"horizontal_small_to_long_conv_{ratio}": [[1, n], [1, 1], [0, n // 2]] for ratio, n in _RATIOS},
        **{f"symmetric_conv_long_{ratio}": [[n, n], [1, 1], [n // 2, n // 2]] for ratio, n in _RATIOS},
    },
}
_HALVING = {
    "model_type": "pp_lcnet_v4",
    "stem_channels": [3, 8, 16],
    "block_configs": [[[3, 16, 16, 1, True]], *([[3, n, m, 2, False]] for n, m in ((16, 16), (16, 32), (32, 32)))],
    "out_features": ["stage1", "stage2", "stage3", "stage4"],
}
_HALVING_HEIGHTS = {
    "model_type": "pp_lcnet_v3",
    "stem_channels": 16,
    "block_configs": [
        [[3, 16, 16, 1, False]],
        [[3, 16, 16, 1, False]],
        *([[3, 16, 16, [2, 1], False]] for _ in range(3)),
    ],
    "out_features": ["stage2", "stage3", "stage4", "stage5"],
}


def _line_of_text(_: PreTrainedConfig) -> tuple[int, int]:
    """Return the height and width of images; the recognizers' backbones reduce the height to 1."""
    return 48, 320


ARCHITECTURES = (
    Architecture(
        ("pp_ocrv5_mobile_det",),
        tiny=Tiny(
            fields={"layer_list_out_channels": [16, 16, 16, 16], "neck_out_channels": 32},
            scales={"head.conv_final.weight": 1e-7},  # its input has values of 1e7
        ),
    ),
    Architecture(
        ("pp_ocrv5_mobile_rec",),
        image_size=_line_of_text,
        tiny=Tiny(base={"backbone_config": _HALVING_HEIGHTS}),
    ),
    Architecture(("pp_ocrv5_server_det",), tiny=Tiny(fields=_TEXT_REGIONS)),
    Architecture(("pp_ocrv5_server_rec",), image_size=_line_of_text),
    Architecture(("pp_ocrv6_tiny_rec", "pp_ocrv6_small_rec"), image_size=_line_of_text),
    Architecture(("pp_ocrv6_medium_det",), tiny=Tiny(fields=_TEXT_REGIONS, base={"backbone_config": _HALVING})),
    Architecture(
        ("pp_ocrv6_small_det",),
        tiny=Tiny(
            fields={"layer_list_out_channels": [16, 16, 32, 32], "neck_out_channels": 32},
            base={"backbone_config": _HALVING},
        ),
    ),
)
