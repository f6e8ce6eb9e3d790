"""The teacher of a distillation: a trained model of this project or of timm, which is not trained further."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Callable, Sequence

import torch
from torch import nn

from checkpoints import loading, store
from checkpoints.weights import order_of
from models import families
from runtime.compat import is_model
from runtime.errors import UserError, printable, reason

if TYPE_CHECKING:
    from options.parsing import Options


def load_teacher(
    options: Options, torch_device: torch.device, classes: Sequence[str], create: Callable[..., nn.Module]
) -> nn.Module:
    """Return `--teacher-model`, built by `create`, with the weights of `--teacher-path`: frozen, in evaluation mode.

    Its outputs are in the order of `classes`, the images', where the file records names. UserError where the file is of
    another model or of other classes, or where the model does not take images of `--input-size`.
    """
    name, num_classes = options.teacher_model, len(classes)
    if not is_model(name):  # timm would look for some others in the network
        raise UserError("--teacher-model %s is neither a model of this project nor of timm" % name)
    path = store.resolve(options.teacher_path, store.FOR_WEIGHTS, "--teacher-path")
    loaded = loading.load(path)
    recorded = loading.options_of(loaded)
    if recorded.get("model", name) != name:
        raise UserError("--teacher-path %s is a --teacher-model %s, not %s" % (path, recorded["model"], name))
    try:
        teacher = create(name, num_classes=num_classes, **_keywords(name, recorded, options.input_size))
    except Exception as error:  # a model raises nearly anything on what it does not take
        raise UserError("--teacher-model %s --input-size %d: %s" % (name, options.input_size, error)) from None
    _check_classes(path, teacher, loaded["model"], num_classes)
    loading.fill(path, teacher, loaded["model"])
    for parameter in teacher.parameters():
        parameter.requires_grad_(False)
    teacher.to(torch_device).eval()
    _check_output(teacher, options, torch_device, num_classes)
    order = _order_of(path, loaded.get("classes"), classes)
    if order == list(range(num_classes)):
        return teacher
    logging.getLogger().info("the teacher's outputs are reordered by the names of its classes")
    return Reordered(teacher, torch.tensor(order, device=torch_device))


class Reordered(nn.Module):
    """A `model` whose outputs are taken in the `order` of other columns."""

    def __init__(self, model: nn.Module, order: torch.Tensor) -> None:
        super().__init__()
        self.model, self.order = model, order

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the logits (B, classes)."""
        return self.model(images)[:, self.order]


def _order_of(path: str, recorded: Sequence[str] | None, classes: Sequence[str]) -> list[int]:
    """Return the teacher's output for each class of the images; UserError where its classes are others."""
    order, recorded = order_of(recorded, classes), recorded or ()
    if order is None:
        missing, more = (sorted(set(these) - set(those)) for these, those in ((classes, recorded), (recorded, classes)))
        names = ", ".join("%r" % printable(name) for name in (missing[:1] + more[:1]))
        message = "--teacher-path %s: the teacher's classes have other names than those of the images (%s): give the "
        message += "folders its names, or pass its weights alone if they are the same (tools/convert.py --to weights)"
        raise UserError(message % (path, names))
    return order


def _keywords(name: str, recorded: dict[str, Any], image_size: int) -> dict[str, Any]:
    """Return what a model of this project needs to be the one that was trained; timm's have their own defaults."""
    is_ours = families.family_of(name) is not None
    return dict(families.own_keywords(name, recorded), image_size=image_size) if is_ours else {}


def _check_classes(path: str, teacher: Any, weights: dict[str, torch.Tensor], num_classes: int) -> None:
    classifier = getattr(teacher.get_classifier(), "weight", None)
    for name, parameter in teacher.named_parameters():
        if parameter is classifier and name in weights and len(weights[name]) != num_classes:
            raise UserError(
                "--teacher-path %s: the teacher knows %d classes, the images have %d"
                % (path, len(weights[name]), num_classes)
            )


def _check_output(teacher: nn.Module, options: Options, torch_device: torch.device, num_classes: int) -> None:
    side = options.input_size
    try:
        with torch.no_grad():
            shape = tuple(teacher(torch.zeros(1, 3, side, side, device=torch_device)).shape)
        if shape != (1, num_classes):
            raise ValueError("its output is %s" % (shape,))
    except Exception as error:
        raise UserError(
            "--teacher-model %s does not take images of %d pixels: %s" % (options.teacher_model, side, reason(error))
        ) from None
