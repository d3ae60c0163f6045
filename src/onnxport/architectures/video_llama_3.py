"""VideoLLaMA 3: only the patches of videos are merged before the encoder."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture
from onnxport.description.forward import OPTION

ARCHITECTURES = (Architecture(("video_llama_3",), left_out={"image_merge_sizes": f"{OPTION}1"}),)
