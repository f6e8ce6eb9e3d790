"""The teacher of a distillation: a trained model of this project or of timm, which is not trained further."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Callable

import torch

from checkpoints import loading, store
from models import families
from runtime.compat import is_model
from runtime.errors import UserError, reason

if TYPE_CHECKING:
    from torch import nn

    from options.parsing import Options


def load_teacher(
    options: Options, torch_device: torch.device, num_classes: int, create: Callable[..., nn.Module]
) -> nn.Module:
    """Return `--teacher-model`, built by `create`, with the weights of `--teacher-path`: frozen, in evaluation mode.

    UserError where the file is of another model or another number of classes, or where the model does not take images
    of `--input-size`.
    """
    name = options.teacher_model
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
    return teacher


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
