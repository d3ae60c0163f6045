"""Compare the pre- and postprocessing of images in a graph with the checkpoint's image processor."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from onnxport.blueprints.image_processing import (
    computed_results,
    expected_results,
    image_processor_of,
    processed_samples,
    random_outputs,
    runner,
    tolerance_of,
)
from onnxport.description.image_processing import HEIGHT, WIDTH
from onnxport.description.tolerances import Tolerance
from onnxport.validation.compare import compare
from onnxport.validation.report import Case, ValidationReport

if TYPE_CHECKING:
    from onnxport.blueprints.subject import Subject
    from onnxport.description.image_processing import ImageProcessing

_COMPONENT = "image processing"
_EXACT = Tolerance(1e-4, 1e-4)
"""Tolerance of results, which are computed of the same outputs."""


def compare_image_processing(
    subject: Subject, processing: ImageProcessing, opset: int, report: ValidationReport
) -> ValidationReport:
    """Compare pixel values of sample images, and the results of random outputs.

    Args:
        subject: the task, and the preprocessor of the checkpoint.
        processing: what the graph computes.
        opset: opset of the graph.
        report: report of the graph, whose level and tolerances the result has.
    """
    cases = tuple(_cases(subject, processing, opset))
    status = "passed" if all(case.passed for case in cases) else "failed"
    return replace(report, status=status, cases=cases, note="")


def _cases(subject: Subject, processing: ImageProcessing, opset: int) -> Iterator[Case]:
    processor = image_processor_of(subject.preprocessor)
    compute = runner(processing.before, opset)
    tolerance = Tolerance(tolerance_of(processing.before), 0.0)
    for image, expected in processed_samples(processor):
        pixels = compare("pixel_values", expected, compute(image[None]), tolerance)
        yield Case(_COMPONENT, "pixel values", dict(zip((HEIGHT, WIDTH), image.shape, strict=False)), (pixels,))
    if processing.after is None:
        return
    outputs = random_outputs(processing.after)
    found = computed_results(processing.after, outputs, opset)
    made = expected_results(processor, processing.after, outputs)
    results = (compare(name, np.stack([one[name] for one in made]), found[name], _EXACT) for name in found)
    yield Case(_COMPONENT, "results", {}, tuple(results))
