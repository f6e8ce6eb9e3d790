"""Classification of images by a trained model: a Classifier to call from Python, and what predict.py prints."""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Iterator, Sequence, overload

import torch
from PIL import Image

import datasets
import engine
from checkpoints import onnx_files, weights
from pipeline import batch_bytes, batches
from pipeline.decoding import Decoding, choose
from pipeline.lanes import LaneBatches, in_order
from pipeline.loader import Loader, LostProcess
from pipeline.readers.named import NamedImages
from pipeline.reading import decode, failure_of, read_image, to_rgb
from pipeline.transforms import eval_transform
from runtime.affinity import usable_cores
from runtime.compat import inference_mode
from runtime.device import select_device
from runtime.errors import RunError, UserError, shown

if TYPE_CHECKING:
    from typing import Union

    PathOrImage = Union[str, os.PathLike, Image.Image]
    Ranking = list[tuple[str, float]]  # classes with their probabilities, the likeliest first

MOST_WORKERS = 10
BATCH_SIZE = 64


@dataclass
class Prediction:
    """The likeliest classes of one image with their probabilities, from the likeliest on, or an error; one is None."""

    path: str
    top: Ranking | None
    error: str | None


class Classifier:
    """A trained model that classifies images, in evaluation mode and float32.

    `class_names` are its classes, `model` is the module, on `device`, and `trained` tells where it comes from. Images
    are decoded by `decoding`, by default as in training.
    """

    def __init__(self, trained: weights.TrainedModel, device: str = "auto", decoding: Decoding | None = None) -> None:
        self.trained, self.class_names = trained, trained.class_names
        self.decoding = choose(None, None, trained.info.options) if decoding is None else decoding
        self.device = select_device("cpu" if onnx_files.is_onnx(trained.path) else device)
        self.device.disable_short_float32()
        self.model = trained.model.to(self.device.torch_device)
        self.transform = batch_bytes.ToBytes(eval_transform(trained.info.image_size))

    @overload
    def __call__(self, images: PathOrImage, top: int = 5) -> Ranking: ...

    @overload
    def __call__(self, images: Sequence[PathOrImage], top: int = 5) -> list[Ranking]: ...

    def __call__(self, images: Any, top: int = 5) -> Any:
        """Return [(class, probability), ...] of the `top` likeliest classes of an image, the likeliest first.

        An image is a path or a PIL image; for a list of them the result is a list of such lists. ValueError where an
        image cannot be read; the message names it.
        """
        if isinstance(images, (list, tuple)):
            predictions = []
            for first in range(0, len(images), BATCH_SIZE):
                predictions += self._classify(images[first : first + BATCH_SIZE], top)
            return predictions
        return self._classify([images], top)[0]

    def _classify(self, images: Sequence[PathOrImage], top: int) -> list[Ranking]:
        samples = [self._prepare(image) for image in images]
        found = self.rank(batch_bytes.stack(samples, list(range(len(samples)))), top)
        for position, image in enumerate(images):
            if not is_finite(found[position]):
                raise UserError("%s: the output of the model is not finite" % _name_of(image))
        return [found[position] for position in range(len(images))]

    def _prepare(self, image: PathOrImage) -> batch_bytes.ImageBytes:
        try:
            exif_transpose = self.decoding.exif_transpose
            if isinstance(image, Image.Image):
                return self.transform(to_rgb(image, exif_transpose))
            return self.transform(read_image(os.fspath(image), exif_transpose))
        except Exception as error:  # decoders raise nearly anything
            raise UserError("%s: %s" % (_name_of(image), failure_of(error))) from None

    @inference_mode()
    def rank(self, batch: batch_bytes.ByteBatch, top: int) -> dict[int, Ranking]:
        """Return {target: [(class, probability), ...]} for the images of a batch; their targets are any numbers."""
        images, numbers = self._inputs_of(batch)
        logits = engine.forward(self.model, images, self.device).float()
        best = logits.topk(min(top, len(self.class_names)), dim=1).indices  # by logits, as the accuracy is counted
        values = torch.softmax(logits, dim=1).gather(1, best)
        return {
            number: [(self.class_names[index], value) for index, value in zip(*row)]
            for number, *row in zip(numbers.tolist(), best.tolist(), values.tolist())
        }

    def _inputs_of(self, batch: batch_bytes.ByteBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (images, targets) of a batch in the form that the model takes."""
        if self.trained.takes_bytes:
            return batch.bytes.permute(0, 3, 1, 2), batch.targets
        return batch_bytes.normalize(batch, self.device)

    def predict_files(
        self, paths: Sequence[str], top: int = 5, batch_size: int = BATCH_SIZE, workers: int | None = None
    ) -> Iterator[Prediction]:
        """Yield the Prediction of each file, in order, read by `workers` processes (None: as many as help)."""
        images = NamedImages()
        images.add_files(paths)
        yield from self.predict_images(images, top, batch_size, workers)

    def predict_images(
        self, images: NamedImages, top: int = 5, batch_size: int = BATCH_SIZE, workers: int | None = None
    ) -> Iterator[Prediction]:
        """Yield the Prediction of each image, as of `predict_files`; the `path` of one in a container is its name."""
        read = functools.partial(decode, exif_transpose=self.decoding.exif_transpose)
        dataset = datasets.ImageFolder(images, self.transform, decode=read, reader=images)
        count = len(images)
        if workers is None:
            workers = min(MOST_WORKERS, usable_cores()) if count > batch_size else 0
        order = LaneBatches(count, images.blocks, batch_size, workers)
        loader = Loader(dataset, order, batches.collate, workers)

        def predictions() -> Iterator[tuple[range, list[Prediction]]]:
            for numbers, (batch, bad_files) in zip(order.ranges, _batches_of(loader)):
                ranked = {} if batch is None else self.rank(batch, top)
                reasons = iter(bad_files)
                yield numbers, [_prediction(images.name(number), ranked.get(number), reasons) for number in numbers]

        yield from in_order(predictions())


def load_trained(path: str, device: str, use_ema: bool, token_layout: str | None) -> weights.TrainedModel:
    """Return the model in a checkpoint, or in an ONNX file of export_onnx.py, to be used on `device`."""
    if onnx_files.is_onnx(path):
        return onnx_files.load_model(path, device, use_ema, token_layout)
    return weights.load_model(path, use_ema, token_layout)


def is_finite(top: Ranking) -> bool:
    """Return whether no probability is NaN."""
    return all(probability == probability for _, probability in top)


def _name_of(image: PathOrImage) -> str:
    name = getattr(image, "filename", "") if isinstance(image, Image.Image) else image
    return shown(os.fspath(name)) if name else "an image in memory"


def _batches_of(loader: Loader) -> Iterator[Any]:
    """Yield what the loader yields; RunError where one of its processes is lost."""
    try:
        yield from loader.items()
    except LostProcess as lost:
        message = "a process that reads images was lost (%s): lower --num-workers or --batch-size"
        raise RunError(message % lost) from None
    finally:
        loader.end()


def _prediction(path: str, top: Ranking | None, reasons: Iterator[str]) -> Prediction:
    if top is None:  # the dataset reports "PATH (REASON)"
        return Prediction(path, None, next(reasons)[len(shown(path)) + 2 : -1])
    if not is_finite(top):
        return Prediction(path, None, "the output of the model is not finite")
    return Prediction(path, top, None)
