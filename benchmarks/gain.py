"""Exported files of fewer bits, written only where they are faster than float32 on this machine, and as accurate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Callable, Iterable, Iterator, NamedTuple

import torch

import engine
from benchmarks import timing
from checkpoints import export
from commands.labelled_images import LabelledImages, spread
from pipeline.decoding import choose
from runtime import quantizing
from runtime.compat import inference_mode
from runtime.device import select_device
from runtime.errors import RunError, UserError, shown

if TYPE_CHECKING:
    import argparse

    from checkpoints.export import DeployedModel
    from checkpoints.weights import TrainedModel

ROUNDS, SECONDS = 9, 0.5
CALIBRATED = 128  # images
BATCH_SIZE = 32  # for calibration and accuracy
CONVERTERS = {"int8": quantizing.to_int8, "half": quantizing.to_half}

Forward = Callable[[torch.Tensor], torch.Tensor]
Batches = Iterable["tuple[torch.Tensor, torch.Tensor]"]


@dataclass
class Gain:
    """The speed beside each float32 peer, and the images that are classified correctly, in percent."""

    speedups: dict[str, float]  # the medians of the rounds' ratios
    accuracy: float
    float32_accuracy: float
    images: int

    def lines(self, options: argparse.Namespace) -> list[str]:
        """Return the lines that report it."""
        beside = ", ".join("%.2f times as fast as %s" % (ratio, name) for name, ratio in self.speedups.items())
        words = (self.accuracy, self.float32_accuracy, self.images, self._loss, options.max_loss)
        return [
            "speed    %s in float32 at batch size %d: at least %.2f needed"
            % (beside, options.batch_size, options.min_speedup),
            "accuracy %.2f %%, %.2f %% in float32, of %d images: %.2f points lost, at most %.2f allowed" % words,
        ]

    @property
    def _loss(self) -> float:
        return self.float32_accuracy - self.accuracy

    def objections(self, options: argparse.Namespace) -> list[str]:
        """Return why such a file is not worth having; empty if it is."""
        found = []
        peer = min(self.speedups, key=lambda name: self.speedups[name])
        if self.speedups[peer] < options.min_speedup:
            words = (self.speedups[peer], peer, options.min_speedup)
            found.append("it is %.2f times as fast as %s, not %.2f (--min-speedup)" % words)
        if self._loss > options.max_loss:
            found.append(
                "it loses %.2f points of accuracy, more than %.2f (--max-loss)" % (self._loss, options.max_loss)
            )
        return found


class Images(NamedTuple):
    """The images for calibration and those for validation, with the positions of each in its folder."""

    calibration: LabelledImages
    calibrated: list[int]
    validation: LabelledImages
    validated: list[int]


def find_images(options: argparse.Namespace, network: TrainedModel) -> Images:
    """Return the images of --calibration-data and --validation-data; without the latter half of the former validate."""
    decoding = choose(None, None, network.info.options)

    def open_folder(option: str, folder: str) -> LabelledImages:
        return LabelledImages(option, folder, network.class_names, decoding, network.info.image_size)

    validation = open_folder("--validation-data", options.validation_data) if options.validation_data else None
    calibration = open_folder("--calibration-data", options.calibration_data) if options.calibration_data else None
    if validation is not None:
        validation.check_labels()
        calibration = calibration or validation  # half precision needs none
        return Images(calibration, list(range(len(calibration.paths))), validation, list(range(len(validation.paths))))
    if calibration is None:
        raise UserError("--validation-data is missing: name the folder of images on which the accuracy is compared")
    calibration.check_labels()
    calibrated, validated = calibration.halves()
    if not validated:
        raise UserError("--calibration-data %s: a single image" % shown(calibration.folder))
    return Images(calibration, calibrated, calibration, validated)


def convert(network: TrainedModel, module: DeployedModel, images: Images, options: argparse.Namespace) -> bytes:
    """Return the ONNX file of fewer bits that the options ask for, and print what it gains and loses.

    RunError, with the numbers, where it is not as fast or not as accurate as they demand.
    """
    kind = options.reduced
    data = export.fast_onnx_file(network, module, options.opset, {"precision": kind})

    def inputs(found: LabelledImages, positions: list[int]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for pixels, targets in found.batches(positions, BATCH_SIZE):
            yield module.from_bytes(pixels), targets

    calibrated = spread(images.calibrated, CALIBRATED)
    reduced = CONVERTERS[kind](data, (batch.numpy() for batch, _ in inputs(images.calibration, calibrated)))
    words = (reduced.products, reduced.of_products, len(calibrated) if kind == "int8" else 0)
    print("%-9s%d of %d products converted, calibrated on %d images" % ((kind, *words)))
    speed_batch = module.example(options.batch_size, network.info.image_size)
    peers = {"torch": eager(module), "onnxruntime": export.load_onnx(data)[0]}
    validation = inputs(images.validation, images.validated)
    gain = measure(export.load_onnx(reduced.data)[0], peers, speed_batch, validation)
    print("\n".join(gain.lines(options)))
    objections = gain.objections(options)
    if objections:
        raise RunError("%s is not written: %s" % (shown(options.target), "; ".join(objections)))
    return reduced.data


def eager(module: DeployedModel) -> Forward:
    """Return the function that `module` computes in torch on the CPU, its model as an evaluation calls it."""
    device = select_device("cpu")

    @inference_mode()
    def forward(images: torch.Tensor) -> torch.Tensor:
        images = module.preprocess(images).contiguous(memory_format=device.memory_format)
        return module.postprocess(engine.forward(module.model, images, device))

    return forward


def measure(reduced: Forward, peers: dict[str, Forward], images: torch.Tensor, batches: Batches) -> Gain:
    """Return the Gain of the function `reduced` beside float32 `peers`, the last of which gives their accuracy.

    The speed is that for the batch `images`, the accuracy that over the `batches` of (images, targets).
    """
    work = {name: work_of(forward, images) for name, forward in {"reduced": reduced, **peers}.items()}
    rates = timing.summarize(timing.alternate(work, ROUNDS, SECONDS), "reduced")
    hits, expected, count = 0, 0, 0
    float32 = list(peers.values())[-1]
    for inputs, targets in batches:
        hits += int((reduced(inputs).argmax(1) == targets).sum())
        expected += int((float32(inputs).argmax(1) == targets).sum())
        count += len(targets)
    speedups = {name: 1 / rates[name].ratio for name in peers}
    return Gain(speedups, 100 * hits / count, 100 * expected / count, count)


def work_of(forward: Forward, images: torch.Tensor) -> Callable[[], int]:
    """Return a function that computes `forward` of a batch and returns the number of images."""

    def work() -> int:
        forward(images)
        return len(images)

    return work
