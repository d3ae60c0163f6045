"""VideoLLaMA 3: only the patches of videos are merged before the encoder."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture

ARCHITECTURES = (Architecture(("video_llama_3",), left_out={"image_merge_sizes": "1 for images; 2 is for videos"}),)
