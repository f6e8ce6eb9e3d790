"""ONNX files of export_onnx.py as models that onnxruntime runs on the CPU."""

from __future__ import annotations

import json
from typing import Any, Mapping

import torch
from torch import nn

from checkpoints.weights import LARGEST_SIZE, TrainedModel, WeightsInfo
from runtime import exporting
from runtime.errors import RunError, UserError, shown
from runtime.names import IMAGENET_MEAN, IMAGENET_STD
from utils import open_regular

ENDING = ".onnx"


class OnnxModel(nn.Module):
    """The model in an ONNX file: images (B, 3, S, S) to logits (B, classes), with onnxruntime.

    Images are normalised float32, or uint8 where the file normalises them. What is given for a file with probabilities
    is their logarithm, from which a softmax gives them again.
    """

    def __init__(self, data: bytes) -> None:
        super().__init__()
        self._run, self.metadata = exporting.onnx_runner(data, torch.get_num_threads())
        self.classes: int | None = None  # of the metadata, once they are read

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        outputs = torch.from_numpy(self._run(images.contiguous().numpy()))
        if outputs.shape != (len(images), self.classes or outputs.shape[-1]):
            raise UserError("the file gives %s for %d classes" % (tuple(outputs.shape), self.classes or 0))
        return outputs.log() if self.metadata.get("output") == "probabilities" else outputs


def is_onnx(path: str) -> bool:
    """Return whether the name of a file ends as that of an ONNX file."""
    return path.lower().endswith(ENDING)


def load_model(path: str, device: str = "auto", use_ema: bool = False, token_layout: str | None = None) -> TrainedModel:
    """Return the model in an ONNX file of export_onnx.py.

    UserError where it is none, where onnxruntime is missing, and for what such a file cannot do: another `device` than
    the CPU, EMA weights and a token layout of one's own.
    """
    _refuse(path, device, use_ema, token_layout)
    exporting.require_package("onnxruntime", shown(path))
    try:
        with open_regular(path) as file:
            model = OnnxModel(file.read())
    except OSError as error:
        raise UserError("the model %s: %s" % (shown(path), error.strerror)) from None
    except RunError as error:
        raise UserError("%s: %s" % (shown(path), error)) from None
    info, names = _read(path, model.metadata)
    model.classes = info.classes
    takes_bytes = model.metadata.get("input", "").startswith("uint8")
    return TrainedModel(path, model.eval(), {}, info, {}, names, True, takes_bytes)


def _refuse(path: str, device: str, use_ema: bool, token_layout: str | None) -> None:
    if device not in ("auto", "cpu"):
        words = (device, shown(path))
        raise UserError("--device %s: %s runs on the CPU: pass --device cpu, or the checkpoint instead" % words)
    if use_ema:
        raise UserError("--ema: %s holds the weights that it was exported with: pass the checkpoint" % shown(path))
    if token_layout is not None:
        raise UserError("--token-layout: %s was exported with its layout: pass the checkpoint" % shown(path))


def _read(path: str, metadata: Mapping[str, str]) -> tuple[WeightsInfo, list[str]]:
    """Return the WeightsInfo and class names in the `metadata`; UserError where export_onnx.py did not write them."""
    values: dict[str, Any] = {}
    for name, text in metadata.items():
        try:
            values[name] = json.loads(text)
        except ValueError:
            values[name] = text
    names: Any = values.get("classes")
    size, model = values.get("input_size"), metadata.get("model")
    is_named = isinstance(names, list) and bool(names) and all(isinstance(name, str) for name in names)
    if not is_named or not isinstance(size, int) or not 0 < size <= LARGEST_SIZE or model is None:
        raise UserError("%s was not written by export_onnx.py: its metadata lack a name that it writes" % shown(path))
    if (values.get("mean"), values.get("std")) != (list(IMAGENET_MEAN), list(IMAGENET_STD)):
        raise UserError("%s was not written by export_onnx.py: its metadata have another mean or std" % shown(path))
    keywords: dict[str, Any] = {name: metadata[name] for name in ("token_layout", "precision") if name in metadata}
    keywords.update(num_classes=len(names), image_size=size)
    options: dict[str, Any] = {name: values[name] for name in ("extensions", "exif_transpose") if name in values}
    return WeightsInfo(model, len(names), size, keywords, options), names
