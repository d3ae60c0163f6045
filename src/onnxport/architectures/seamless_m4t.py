"""SeamlessM4T: its base model takes text or speech, and its vocoder repeats units for predicted durations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from onnxport.architectures._architecture import Architecture, always
from onnxport.architectures._length_regulator import repeat_states
from onnxport.configs._base import OnnxConfig, model_of
from onnxport.description.derived import DerivedOnnxConfig

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, SeamlessM4TCodeHifiGan

    from onnxport.description.preprocessor import Preprocessor
    from onnxport.description.tasks import Task


class VocoderOnnxConfig(DerivedOnnxConfig):
    """Describe the vocoder, which returns samples and the number of samples of each sequence."""

    def run(self, forward: Any, arguments: Mapping[str, Any]) -> Any:
        """Run the vocoder; when exporting, without the loop over the batch that repeats units."""
        import torch

        if not torch.compiler.is_exporting():
            waveform, lengths = super().run(forward, arguments)["output"]
            return {"output": (waveform, lengths.reshape(-1))}  # Transformers drops the axis of a single sequence
        return {"output": _vocode(model_of(forward), **arguments)}


def _vocode(
    model: SeamlessM4TCodeHifiGan, input_ids: torch.Tensor, spkr_id: torch.Tensor, lang_id: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    import torch

    units = model.unit_embedding(input_ids)
    durations = torch.clamp(torch.round(torch.expm1(model.dur_predictor(units))).long(), min=1)
    states = repeat_states(units, durations)
    both = (model.language_embedding(lang_id), model.speaker_embedding(spkr_id))
    language, speaker = (embedding.expand(-1, states.shape[1], -1) for embedding in both)
    waveform = model.hifi_gan(torch.cat([language, states, speaker], dim=-1).transpose(1, 2))
    lengths = model._get_dur_output_lengths(input_ids, durations)
    return waveform, model._get_output_hifigan_lengths(lengths)


def _vocoder(model: PreTrainedModel, task: Task, preprocessor: Preprocessor, last_logits: bool) -> OnnxConfig | None:
    is_vocoder = hasattr(model, "dur_predictor")
    return always(VocoderOnnxConfig)(model, task, preprocessor, last_logits) if is_vocoder else None


ARCHITECTURES = (
    Architecture(
        ("seamless_m4t", "seamless_m4t_v2"),
        model=_vocoder,
        left_out={"input_features": "speech instead of the text"},
    ),
)
