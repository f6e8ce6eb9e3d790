"""Export of a trained model to files that other runtimes run, each checked against torch before it is kept."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Callable

import numpy
import torch
from torch import nn

from checkpoints import loading, safetensors_files, weights
from runtime import exporting, quantizing
from runtime.errors import RunError, reason
from runtime.names import CROP_PCT, IMAGENET_MEAN, IMAGENET_STD

if TYPE_CHECKING:
    from checkpoints.weights import TrainedModel

BATCH_SIZES = (1, 3)  # with which the written file is checked
TOLERANCE = 1e-4  # of the largest output: float32 sums in another order differ by 1e-6 or so


@dataclass
class Difference:
    """The largest difference between the outputs of a file and of torch, and the largest that is allowed."""

    largest: float
    allowed: float


class DeployedModel(nn.Module):
    """A model with its preprocessing and postprocessing.

    The input is normalised float32 images (B, 3, S, S), or with `preprocesses` uint8 RGB; the output is logits
    (B, classes), or with `softmaxes` probabilities.
    """

    def __init__(self, model: nn.Module, preprocesses: bool, softmaxes: bool) -> None:
        super().__init__()
        self.model, self.preprocesses, self.softmaxes = model, preprocesses, softmaxes
        if preprocesses:
            for name, values in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD)):
                self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1))

    @property
    def names(self) -> list[str]:
        """The names of the input and of the output."""
        return ["images", "probabilities" if self.softmaxes else "logits"]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.postprocess(self.model(self.preprocess(images)))

    def preprocess(self, images: torch.Tensor) -> torch.Tensor:
        """Return the input of the model for that of this module."""
        return (images.float() / 255 - self.mean) / self.std if self.preprocesses else images

    def postprocess(self, outputs: torch.Tensor) -> torch.Tensor:
        """Return the output of this module for that of the model."""
        return torch.softmax(outputs, dim=1) if self.softmaxes else outputs

    def example(self, batch: int, size: int) -> torch.Tensor:
        """Return images (batch, 3, size, size) in the form of the input, always the same ones."""
        values = numpy.random.RandomState(batch).randint(0, 256, (batch, 3, size, size)).astype(numpy.uint8)
        return self.from_bytes(torch.from_numpy(values))

    def from_bytes(self, images: torch.Tensor) -> torch.Tensor:
        """Return uint8 images in the form of the input."""
        return images if self.preprocesses else DeployedModel(nn.Identity(), True, False)(images)


def metadata_of(network: TrainedModel, module: DeployedModel) -> dict[str, Any]:
    """Return the metadata that a file carries: {name: text, number or list}."""
    metadata = {
        "model": network.info.model,
        "classes": network.class_names,
        "input_size": network.info.image_size,
        "mean": list(IMAGENET_MEAN),
        "std": list(IMAGENET_STD),
        "crop_pct": CROP_PCT,
        "interpolation": "bicubic",
        "input": "uint8 RGB, 0 to 255" if module.preprocesses else "float32 RGB, (value / 255 - mean) / std",
        "output": module.names[1],
    }
    if "token_layout" in network.info.keywords:
        metadata["token_layout"] = network.info.keywords["token_layout"]
    recorded = network.info.options  # how images are read, for predict.py
    metadata.update({name: recorded[name] for name in ("extensions", "exif_transpose") if recorded.get(name)})
    return metadata


def write(
    path: str, kind: str, network: TrainedModel, module: DeployedModel, opset: int | None = None
) -> Difference | None:
    """Write a file of one of EXPORT_FORMATS, and return the Difference between it and `module`; None for safetensors.

    RunError where it does not compute the same; the caller deletes the file then.
    """
    if kind == "safetensors":
        _write_weights(path, network)
        return None
    metadata = metadata_of(network, module)
    images = module.example(2, network.info.image_size)
    if kind == "onnx":
        load: Callable[[bytes], tuple[Any, Any]] = load_onnx
        data = onnx_file(network, module, opset)
    else:
        make, load = {
            "torchscript": (exporting.script_file, exporting.load_script),
            "exported_program": (exporting.program_file, exporting.load_program),
        }[kind]
        data = make(module, images, json.dumps(metadata))
    with open(path, "wb") as file:
        file.write(data)
    with open(path, "rb") as file:
        written, found = load(file.read())
    if found != (_as_texts(metadata) if kind == "onnx" else json.dumps(metadata)):
        raise RunError("the metadata of the file is not what was written")
    return compare(module, written, network.info.image_size)


def _as_texts(metadata: dict[str, Any]) -> dict[str, str]:
    """Return the metadata as ONNX keeps it: texts, all other values as JSON."""
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in metadata.items()}


def _onnx_file(module: DeployedModel, images: torch.Tensor, metadata: dict[str, Any], opset: int) -> bytes:
    model = exporting.onnx_model(module, images, module.names, opset)
    for graph in [model.graph, *getattr(model, "functions", [])]:
        for node in graph.node:
            node.doc_string = ""  # it tells where the source lies on this machine, as the metadata of newer files do
            if hasattr(node, "metadata_props"):
                del node.metadata_props[:]
    del model.metadata_props[:]
    for name, text in _as_texts(metadata).items():
        entry = model.metadata_props.add()
        entry.key, entry.value = name, text
    exporting.require_package("onnx", "--format onnx").checker.check_model(model)
    return model.SerializeToString()


def onnx_file(network: TrainedModel, module: DeployedModel, opset: int | None = None) -> bytes:
    """Return an ONNX file, not yet compared with `module`."""
    images = module.example(2, network.info.image_size)
    return _onnx_file(module, images, metadata_of(network, module), opset or exporting.default_opset())


def fast_onnx_file(
    network: TrainedModel, module: DeployedModel, opset: int | None = None, more: dict[str, Any] | None = None
) -> bytes:
    """Return the ONNX file that onnxruntime runs fastest on a CPU, checked against `module`.

    Its products have constant matrices, which the layout channels_last gives, and GELU is one operator where this
    torch can write it (GELU_OPSET). `more` is added to the metadata.
    """
    metadata = dict(metadata_of(network, module), **(more or {}))
    images = module.example(2, network.info.image_size).contiguous(memory_format=torch.channels_last)
    data = _onnx_file(module, images, metadata, opset or exporting.fast_opset())
    data = quantizing.fold(data)
    compare(module, load_onnx(data)[0], network.info.image_size)
    return data


def load_onnx(data: bytes) -> tuple[Callable[[torch.Tensor], torch.Tensor], dict[str, str]]:
    """Return the function that an ONNX file computes on the CPU, and its metadata."""
    run, metadata = exporting.onnx_runner(data, torch.get_num_threads())
    return lambda images: torch.from_numpy(run(images.numpy())), metadata


def _write_weights(path: str, network: TrainedModel) -> None:
    metadata = weights.metadata_of(network.info, network.checkpoint)
    safetensors_files.write(path, weights.clone(network.weights), metadata)
    written = loading.load(path)["model"]
    if sorted(written) != sorted(network.weights):
        raise RunError("the names of the weights are not those that were written")
    for name, value in network.weights.items():
        other = written[name]
        same = other.dtype == value.dtype and other.shape == value.shape
        if not same or not ((other == value) | ((other != other) & (value != value))).all():  # NaN is not itself
            raise RunError("%s differs from what was written" % name)


@torch.no_grad()
def compare(module: DeployedModel, written: Callable[[torch.Tensor], torch.Tensor], size: int) -> Difference:
    """Return the Difference between the outputs of `module` and of the function `written`, over all BATCH_SIZES.

    RunError where it is larger than allowed.
    """
    largest, scale = 0.0, 0.0
    for batch in BATCH_SIZES:
        images = module.example(batch, size)
        expected = module(images)
        if not torch.isfinite(expected).all():
            raise RunError("the outputs of the model are not finite: there is nothing to compare")
        try:
            outputs = written(images)
        except Exception as error:  # a runtime raises its own classes
            raise RunError("what was written fails at batch size %d: %s" % (batch, reason(error))) from None
        if outputs.shape != expected.shape:
            raise RunError("what was written gives %s for %s" % (tuple(outputs.shape), tuple(expected.shape)))
        difference = (outputs - expected).abs().max().item()
        largest = max(largest, difference if difference == difference else float("inf"))
        scale = max(scale, expected.abs().max().item())
    allowed = TOLERANCE * scale
    if largest > allowed:
        message = "what was written differs from torch by %.3g, more than the %.3g allowed"
        raise RunError(message % (largest, allowed))
    return Difference(largest, allowed)
