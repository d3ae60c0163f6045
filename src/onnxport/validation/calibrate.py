"""Decide what is measured with the original before its weights are quantized, and for which precisions."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from onnxport import samples
from onnxport.blueprints.blueprint import Blueprint
from onnxport.blueprints.original import Original
from onnxport.errors import OptionError
from onnxport.options import UNCALIBRATED, ExportOptions, Progress
from onnxport.passes.quantization_plan import Calibration
from onnxport.passes.quantize import plan_quantization
from onnxport.patching.scope import exclusive
from onnxport.weights.precision import Precision
from onnxport.weights.quantization import BlockScheme

logger = logging.getLogger(__name__)


def calibrate(
    original: Original,
    blueprint: Blueprint,
    precisions: Sequence[Precision],
    options: ExportOptions,
    readers: ExitStack,
    report: Progress,
) -> list[Calibration]:
    """Measure inputs of layers for each precision that uses them.

    Without `--calibration`, they are measured with random tokens for 8-bit activations, of models that read text.

    Args:
        original: the checkpoint.
        blueprint: its graphs.
        precisions: the precisions of one floating-point type.
        options: the options, with that type as dtype.
        readers: removes the files of matrices that are quantized meanwhile.
        report: called with the stage.

    Returns:
        What was measured for each precision, empty for those that don't use it.

    Raises:
        OptionError: the model doesn't read what `--calibration` says, or its checkpoint has no tokenizer.
    """
    chosen = [_is_chosen(one, blueprint, options) for one in precisions]
    if options.dry_run or not any(chosen):
        return [Calibration() for _ in precisions]
    text = None if options.calibration_file is None else samples.text(options.calibration_file)
    with exclusive():
        from onnxport.validation.calibration import compensate, measure_importance

        try:
            importance = measure_importance(original, text, options, report)
        except OptionError as error:
            if options.calibration is not None:
                raise
            logger.info("quantized without calibration: %s", error)
            return [Calibration() for _ in precisions]
        graphs = zip(blueprint.trace.graphs, blueprint.graphs, strict=True)
        prefixed = [(traced.prefix, graph) for traced, graph in graphs]

        def calibration_of(precision: Precision) -> Calibration:
            if text is None or not options.quantize_options.gptq or not isinstance(precision.scheme, BlockScheme):
                return Calibration(importance)
            made = tempfile.TemporaryDirectory(prefix="onnxport-", ignore_cleanup_errors=True)
            plan, directory = plan_quantization(prefixed, precision), Path(readers.enter_context(made))
            return Calibration(importance, compensate(original, text, options, plan, directory, report))

        return [calibration_of(one) if use else Calibration() for one, use in zip(precisions, chosen, strict=True)]


def _is_chosen(precision: Precision, blueprint: Blueprint, options: ExportOptions) -> bool:
    """Return whether a precision is calibrated."""
    if not precision.is_calibrated or options.calibration == UNCALIBRATED:
        return False
    return options.calibration is not None or (precision.rounds_inputs and blueprint.description.reads_text)
