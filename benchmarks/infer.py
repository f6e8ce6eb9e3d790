"""Images a second of a forward pass on the CPU, in torch and in onnxruntime, and whether the peers agree.

The peers are torch eager, as an evaluation and predict.py call it, torch compiled, and onnxruntime with the file of
`export_onnx.py`, with the one in the form that is fastest, and with the int8 one.
"""

from __future__ import annotations

import os
import tempfile
from typing import TYPE_CHECKING, Any, Iterable

import numpy
import torch
from torch import nn

import engine
from benchmarks import timing
from benchmarks.gain import Forward, eager, work_of
from benchmarks.report import Row
from checkpoints import export, store, weights
from commands.labelled_images import LabelledImages, spread
from pipeline.decoding import choose
from runtime import exporting, quantizing
from runtime.compat import create_model, inference_mode
from runtime.compiling import compile_blocks, compiles
from runtime.device import select_device

if TYPE_CHECKING:
    import argparse

    from checkpoints.weights import TrainedModel

CLASSES = 1000
CALIBRATED = 32  # images
_PART = 32  # images at a time
BASELINE = "torch eager"


def run(options: argparse.Namespace) -> list[Row]:
    """Return the rows of each batch size: images a second, and the images whose class is that of torch eager."""
    for package in ("onnx", "onnxruntime"):
        exporting.require_package(package, "infer")
    network = _network(options)
    module = export.DeployedModel(network.model, False, False).eval()
    size = network.info.image_size
    images = _images(options, network, module)
    peers = _peers(options, network, module, images[:CALIBRATED])
    rows: list[Row] = []
    for batch_size in options.batch_sizes:
        batch = _batch(module, batch_size, size)
        work = {name: work_of(forward, batch) for name, forward in peers.items()}
        rates = timing.alternate(work, options.rounds, options.seconds)
        for name, rate in timing.summarize(rates, BASELINE).items():
            rows.append(timing.to_row("%s, batch %d" % (name, batch_size), "speed", rate))
    return rows + _agreement(peers, images.split(_PART))


def _network(options: argparse.Namespace) -> TrainedModel:
    """Return the model of --checkpoint, or else a new one of the name --model."""
    if options.checkpoint is not None:
        return weights.load_model(options.checkpoint)
    torch.manual_seed(0)
    model = create_model(options.model, num_classes=CLASSES, image_size=options.input_size)
    recorded = {"model": options.model, "input_size": options.input_size}
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "new.pth")
        store.save_as({"model": model.state_dict(), "args": recorded}, path)
        return weights.load_model(path)


def _images(options: argparse.Namespace, network: TrainedModel, module: export.DeployedModel) -> torch.Tensor:
    """Return the first --images images of --data-path, or else images that are made here."""
    if options.data_path is None:
        return _batch(module, options.images, network.info.image_size)
    decoding = choose(None, None, network.info.options)
    found = LabelledImages("--data-path", options.data_path, network.class_names, decoding, network.info.image_size)
    chosen = spread(range(len(found.paths)), options.images)
    return module.from_bytes(torch.cat([pixels for pixels, _ in found.batches(chosen, _PART)]))


def _peers(
    options: argparse.Namespace, network: TrainedModel, module: export.DeployedModel, calibration: torch.Tensor
) -> dict[str, Forward]:
    """Return the functions to compare, each from images (B, 3, S, S) to logits."""
    exported = export.onnx_file(network, module)
    fast = export.fast_onnx_file(network, module)
    int8 = quantizing.to_int8(fast, iter([calibration.numpy()])).data
    peers: dict[str, Forward] = {BASELINE: eager(module)}
    peers["onnxruntime float32"] = export.load_onnx(exported)[0]
    peers["onnxruntime float32, fast form"] = export.load_onnx(fast)[0]
    peers["onnxruntime int8"] = export.load_onnx(int8)[0]
    if options.compile:
        peers["torch compiled"] = _compiled(network)
    return peers


def _compiled(network: TrainedModel) -> Forward:
    """Return the function of a copy of the model that is compiled block by block, as main.py --compile does."""
    device = select_device("cpu")
    compiles("on", device)
    model: Any = create_model(network.info.model, **network.info.keywords)
    model.load_state_dict(network.model.state_dict())
    compile_blocks(model.eval(), "on")

    @inference_mode()
    def forward(images: torch.Tensor) -> torch.Tensor:
        return engine.forward(model, images.contiguous(memory_format=device.memory_format), device, len(images))

    return forward


def _batch(module: export.DeployedModel, count: int, size: int, seed: int = 0) -> torch.Tensor:
    """Return images of coloured areas in the form of the module's input: those of noise look alike to a model."""
    coarse = numpy.random.RandomState(seed).randint(0, 256, (count, 3, 7, 7)).astype(numpy.float32)
    pixels = nn.functional.interpolate(torch.from_numpy(coarse), (size, size), mode="bilinear", align_corners=False)
    return module.from_bytes(pixels.to(torch.uint8))


def _agreement(peers: dict[str, Forward], batches: Iterable[torch.Tensor]) -> list[Row]:
    """Return for each peer the images, in percent, for which its likeliest class is that of torch eager."""
    same, count = dict.fromkeys(peers, 0), 0
    for images in batches:
        found = {name: forward(images).argmax(1) for name, forward in peers.items()}
        count += len(images)
        for name, classes in found.items():
            same[name] += int((classes == found[BASELINE]).sum())
    measure = "same class as %s, of %d images" % (BASELINE, count)
    return [Row(name, measure, 100 * hits / count, "%") for name, hits in same.items() if name != BASELINE]
