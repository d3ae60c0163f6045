"""A server of Triton's protocol for one model repository, in this process: the server itself is an image of containers.

It reads `config.pbtxt` with Triton's schema, runs graphs in ONNX Runtime, and ensembles as their steps say.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnxruntime
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2, service_pb2, service_pb2_grpc
from tritonclient.utils import np_to_triton_dtype, triton_to_np_dtype

Arrays = Mapping[str, np.ndarray]


def configuration(repository: Path, model: str) -> Any:
    """Read the configuration of a model."""
    return text_format.Parse((repository / model / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())


class Repository(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Answer requests for the models of a repository."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def ModelInfer(self, request: Any, context: Any) -> Any:  # of the protocol
        pairs = zip(request.inputs, request.raw_input_contents, strict=True)
        feed = {
            tensor.name: np.frombuffer(raw, triton_to_np_dtype(tensor.datatype)).reshape(tensor.shape)
            for tensor, raw in pairs
        }
        response = service_pb2.ModelInferResponse(model_name=request.model_name)
        for name, array in self.run(request.model_name, feed).items():
            datatype = np_to_triton_dtype(array.dtype)
            response.outputs.add(name=name, datatype=datatype, shape=array.shape)
            response.raw_output_contents.append(np.ascontiguousarray(array).tobytes())
        return response

    def run(self, model: str, feed: Arrays) -> dict[str, np.ndarray]:
        """Run a model on the inputs that its configuration has; return the outputs that it has."""
        settings = configuration(self._directory, model)
        inputs, outputs = [tensor.name for tensor in settings.input], [tensor.name for tensor in settings.output]
        assert set(inputs) == set(feed), f"{model} takes {inputs}, not {list(feed)}"
        batches = {len(value) for value in feed.values()} if settings.max_batch_size else {1}
        assert len(batches) == 1 and max(batches) <= max(settings.max_batch_size, 1), f"{model}: batches {batches}"
        for tensor in settings.input:
            axes = feed[tensor.name].shape[1 if settings.max_batch_size else 0 :]
            fits = all(axis in (-1, size) for axis, size in zip(tensor.dims, axes, strict=True))
            assert fits, f"{model}: {tensor.name} is {axes}, not {list(tensor.dims)}"
        if settings.platform != "ensemble":
            session = onnxruntime.InferenceSession(self._directory / model / "1" / "model.onnx")
            shaped = {
                tensor.name: feed[tensor.name].reshape(()) if tensor.HasField("reshape") else feed[tensor.name]
                for tensor in settings.input
            }
            return dict(zip(outputs, session.run(outputs, shaped), strict=True))
        values = dict(feed)
        for step in settings.ensemble_scheduling.step:
            found = self.run(step.model_name, {key: values[value] for key, value in step.input_map.items()})
            values |= {step.output_map[name]: array for name, array in found.items() if name in step.output_map}
        return {name: values[name] for name in outputs}


@contextmanager
def serving(directory: Path, port: int = 0) -> Iterator[str]:
    """Serve a repository on this machine in a block; yield the address."""
    server = grpc.server(ThreadPoolExecutor(1))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Repository(directory), server)
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None)


if __name__ == "__main__":  # DIRECTORY PORT
    with serving(Path(sys.argv[1]), int(sys.argv[2])):
        print("ready", flush=True)
        signal.pause()
