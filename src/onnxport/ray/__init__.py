"""Run and export models on a Ray cluster: `Predictor` computes the predictions of a dataset's rows in many workers."""

from onnxport.ray._predictor import Predictor
from onnxport.ray._tasks import run_tasks

__all__ = ["Predictor", "run_tasks"]
