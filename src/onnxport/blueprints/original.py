"""The original model of an export: its configuration, class, preprocessor, and description with code to run it."""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from onnxport.checkpoint.adapters import Adapter
from onnxport.checkpoint.checkpoint import Checkpoint
from onnxport.description.depth import LayerTypes, NotExtendableError
from onnxport.description.description import Description
from onnxport.description.image_processing import ImageProcessing
from onnxport.options import ExportOptions, Progress
from onnxport.patching.scope import exclusive

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedConfig, PreTrainedModel

    from onnxport.blueprints.describing import Described
    from onnxport.blueprints.draft import Draft
    from onnxport.blueprints.subject import Subject

logger = logging.getLogger(__name__)


class Original:
    """Load the configuration, class and preprocessor of a checkpoint on first access.

    Args:
        checkpoint: the checkpoint.
        options: the options of the export.
        draft: the draft that was traced; None if the blueprint is from the cache.
        described: its description; None if the graphs are from the cache.
        adapter: an adapter that is kept apart from the checkpoint's weights.
        image_processing: the pre- and postprocessing of images in the graph; None without it.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        options: ExportOptions,
        draft: Draft | None = None,
        described: Described | None = None,
        adapter: Adapter | None = None,
        image_processing: ImageProcessing | None = None,
    ) -> None:
        self.checkpoint, self.adapter, self.image_processing = checkpoint, adapter, image_processing
        self._options, self._draft, self._described = options, draft, described

    @cached_property
    def subject(self) -> Subject:
        """Task, class, configuration and preprocessor."""
        if self._draft is not None:
            return self._draft.subject
        with exclusive():
            from onnxport.blueprints.subject import subject_of

            return subject_of(self.checkpoint, self._options)

    @property
    def config(self) -> PreTrainedConfig:
        """The configuration."""
        return self.subject.config

    @property
    def preprocessor(self) -> Any:
        """Tokenizer, processor, image processor or feature extractor; None if the checkpoint has none."""
        return self.subject.preprocessor

    @property
    def generation_config(self) -> GenerationConfig | None:
        """The generation config derived from the model's config; None for a model that doesn't generate."""
        from onnxport.loading.load import generation_config_for

        return generation_config_for(self.subject.model_class, self.config, self.preprocessor)

    @property
    def draft(self) -> Draft | None:
        """The draft that was traced; None if the blueprint is from the cache."""
        return self._draft

    def make_draft(self, report: Progress) -> Draft:
        """Return the draft that was traced; it is created if the blueprint is from the cache."""
        from onnxport.blueprints.draft import make_draft

        if self._draft is None:
            self._draft = make_draft(self.checkpoint, self._options, report)
        return self._draft

    def describe(self, description: Description, model: PreTrainedModel) -> Description:
        """Return a description with the code to run a model; the model is run only if it wasn't described yet.

        Args:
            description: the blueprint's description.
            model: the original, at full depth or with the traced layers.
        """
        described = self.describe_traced(description, model)
        if self.image_processing is None:
            return described
        from onnxport.blueprints.image_processing import taking_images

        return taking_images(described, self.image_processing)

    def describe_traced(self, description: Description, model: PreTrainedModel) -> Description:
        """Return the same without pre- and postprocessing of images, as the graphs were traced."""
        from onnxport.blueprints.describing import with_code

        if self._described is not None:
            shallow, stacks = self._described.draft.reduction.model, self._described.draft.reduction.stacks
            if model is shallow:
                return _as_traced(self._described.description, description)
            layers = tuple(LayerTypes(stack.path, stack.traced, stack.full) for stack in stacks)
            try:
                return _as_traced(self._described.description.at_depth(shallow, model, layers), description)
            except NotExtendableError as error:
                logger.info("%s is described again: %s", type(model).__name__, error)
        return with_code(description, model, self.subject, self._options.graph)


def _as_traced(described: Description, traced: Description) -> Description:
    """Return a description with the sizes at which its graphs were traced, and up to which they are valid."""
    graphs = tuple(
        replace(graph, sizes=known.sizes, max_sizes=known.max_sizes, branch_sizes=known.branch_sizes)
        for graph, known in zip(described.graphs, traced.graphs, strict=True)
    )
    return replace(described, graphs=graphs)
