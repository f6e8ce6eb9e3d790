"""What differs between torch 1.5 and 2.x, timm 0.4.5 and 1.x, Pillow and numpy versions, under one name each.

Imports nothing else of this project, so that every other file may use it.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import re
from typing import Any, Callable, ContextManager, Sequence

import numpy
import timm.data
import timm.data.auto_augment
import timm.data.transforms
import timm.loss
import timm.optim
import timm.scheduler
import torch
from torch.utils.data import DataLoader

try:  # timm >= 0.9
    from timm.layers import DropPath
    from timm.models import register_model as _register_model
except ImportError:
    from timm.models.layers import DropPath
    from timm.models.registry import register_model as _register_model

__all__ = [
    "KEEP_WORKERS",
    "DropPath",
    "LabelSmoothingCrossEntropy",
    "Mixup",
    "RandomResizedCropAndInterpolation",
    "SoftTargetCrossEntropy",
    "attention",
    "augment_operations",
    "count_multiply_adds",
    "create_model",
    "create_optimizer",
    "create_scheduler",
    "create_transform",
    "feature_getter",
    "inference_mode",
    "is_model",
    "register_model",
    "release_versions",
    "resizes_bytes",
    "trunc_normal_",
    "without_contents",
]

RandomResizedCropAndInterpolation = timm.data.transforms.RandomResizedCropAndInterpolation
LabelSmoothingCrossEntropy = timm.loss.LabelSmoothingCrossEntropy
SoftTargetCrossEntropy = timm.loss.SoftTargetCrossEntropy
create_model, is_model = timm.create_model, timm.models.is_model
create_optimizer = timm.optim.create_optimizer
create_scheduler = timm.scheduler.create_scheduler
# DataLoader's option that keeps its workers from one epoch to the next (torch >= 1.7).
KEEP_WORKERS = (
    {"persistent_workers": True} if "persistent_workers" in inspect.signature(DataLoader.__init__).parameters else {}
)
inference_mode = getattr(torch, "inference_mode", torch.no_grad)
trunc_normal_ = getattr(torch.nn.init, "trunc_normal_", None) or timm.models.layers.trunc_normal_


def without_contents() -> ContextManager[Any]:
    """Return a context in which models are built without initial weights, where torch can: large ones take seconds."""
    return torch.device("meta") if hasattr(torch, "compile") else contextlib.nullcontext()


def count_multiply_adds(model: torch.nn.Module, shape: tuple[int, ...]) -> int | None:
    """Return the multiply-adds of a forward pass over images of that shape; None where torch does not count them.

    They are those of matrix products, convolutions and attention; additions, norms and activations are not counted, as
    usual.
    """
    try:
        from torch.utils.flop_counter import FlopCounterMode
    except ImportError:
        return None
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        model(torch.zeros(shape, device=next(model.parameters()).device))
    return counter.get_total_flops() // 2


def attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Return softmax(query key^T / sqrt(d)) value over (B, heads, N, d), by one kernel where torch has it."""
    if hasattr(torch.nn.functional, "scaled_dot_product_attention"):
        return torch.nn.functional.scaled_dot_product_attention(query, key, value)
    width = int(query.shape[-1])  # torch 1.5, when it traces, has an integer tensor here, whose powers are integers too
    scores = query * width**-0.5 @ key.transpose(-2, -1)
    return scores.softmax(dim=-1) @ value


# What timm passes to every model function, depending on its version; models without hosted weights ignore it.
_TIMM_BOOKKEEPING = ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir")


def register_model(build: Callable[..., torch.nn.Module]) -> Callable[..., torch.nn.Module]:
    """Register `build(**kwargs)` with timm under its name; ValueError for `pretrained=True`: no weights are hosted."""

    @functools.wraps(build)
    def entry(pretrained: bool = False, **kwargs: Any) -> torch.nn.Module:
        if pretrained:
            raise ValueError(
                "%s has no hosted weights: build it with pretrained=False and load a checkpoint" % build.__name__
            )
        for name in _TIMM_BOOKKEEPING:
            kwargs.pop(name, None)
        return build(**kwargs)

    return _register_model(entry)


def feature_getter(model: torch.nn.Module, indices: Sequence[int]) -> torch.nn.Module:
    """Wrap `model` as timm's `features_only` does: the module returns the features of the stages `indices`."""
    getter = getattr(getattr(timm.models, "_features", None), "FeatureGetterNet", None)
    if getter is None:
        raise ValueError("features_only needs timm 1: call forward_intermediates instead")
    return getter(model, out_indices=indices)


def create_transform(**kwargs: Any) -> Any:
    """Return timm's transform, with `posterize(bits=0)` working as before Pillow 13.

    ValueError where timm would ignore a section of the policy, or accept one that fails or takes hours on an image.
    """
    _allow_posterize_to_zero_bits()
    if kwargs.get("auto_augment"):
        _check_policy(kwargs["auto_augment"])
    return timm.data.create_transform(**kwargs)


# The sections of a policy, with the smallest and the largest value of each.
_SECTIONS: dict[str, dict[str, tuple[float, float]]] = {
    "rand": {"m": (0, 100), "n": (0, 10), "p": (0, 1), "w": (0, 0), "inc": (0, 1), "mmax": (0, 100)},
    "augmix": {"m": (0, 100), "w": (1, 10), "d": (0, 10), "a": (0.001, 1000), "b": (0, 1)},
}


def _check_policy(policy: str) -> None:
    kind, *sections = policy.split("-")
    bounds: dict[str, tuple[float, float]] = dict(_SECTIONS.get(kind, {}), mstd=(0, 1000))
    for section in sections:
        if kind == "rand" and section in ("tweights", "t3a", "t3aw"):
            continue
        found = re.fullmatch(r"([a-z]+)([0-9]+(\.[0-9]+)?)", section)
        if not found or found.group(1) not in bounds:
            raise ValueError("it has no section %r" % section)
        least, most = bounds[found.group(1)]
        if not least <= float(found.group(2)) <= most:
            raise ValueError("%s must be at least %s and at most %s, got %s" % (found.group(1), least, most, section))


def augment_operations(transform: Any) -> list[Any]:
    """Return the operations that timm's augmentation in `transform` chooses from, to be changed in place."""
    found = []
    for step in transform.transforms:
        for part in list(getattr(step, "ops", [])) + [
            part for policy in getattr(step, "policy", []) for part in policy
        ]:
            found.append(part)
    return found


def resizes_bytes() -> bool:
    """Return whether this torch resizes uint8 tensors with antialiasing."""
    image = torch.zeros(1, 3, 4, 4, dtype=torch.uint8)
    try:
        torch.nn.functional.interpolate(image, (2, 2), mode="bicubic", antialias=True)
    except (TypeError, RuntimeError, NotImplementedError):
        return False
    return True


def _allow_posterize_to_zero_bits() -> None:
    """Make 0 bits give black, as Pillow < 13 does: timm's increasing policy uses it."""
    operations = timm.data.auto_augment.NAME_TO_OP
    for name in ("Posterize", "PosterizeIncreasing", "PosterizeOriginal"):
        if name in operations and not isinstance(operations[name], _BlackAtZeroBits):
            operations[name] = _BlackAtZeroBits(operations[name])


class _BlackAtZeroBits:
    """One of timm's posterize operations, which gives a black image for 0 bits."""

    def __init__(self, posterize: Callable[..., Any]) -> None:
        functools.update_wrapper(self, posterize)
        self.posterize = posterize

    def __call__(self, image: Any, bits: int, **kwargs: Any) -> Any:
        if bits <= 0:
            return image.point(lambda value: 0)
        return self.posterize(image, bits, **kwargs)


class Mixup(timm.data.Mixup):
    """timm's Mixup on any device (timm 0.4.5 builds its targets on CUDA, and uses a name that numpy has removed)."""

    def __call__(self, images: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mix `images` (B, 3, H, W) in place and return them with soft targets (B, classes); B must be even."""
        if not _MIXUP_NEEDS_A_DEVICE:
            return super().__call__(images, targets)
        if len(images) % 2:
            raise ValueError("mixup needs an even batch, got %d images" % len(images))
        if self.mode == "elem":
            lam = self._mix_elem(images)
        elif self.mode == "pair":
            lam = self._mix_pair(images)
        else:
            lam = self._mix_batch(images)
        return images, timm.data.mixup.mixup_target(
            targets, self.num_classes, lam, self.label_smoothing, device=images.device
        )


_MIXUP_NEEDS_A_DEVICE = (
    "device" in inspect.signature(timm.data.mixup.mixup_target).parameters
    and inspect.signature(timm.data.mixup.mixup_target).parameters["device"].default == "cuda"
)
if _MIXUP_NEEDS_A_DEVICE and not hasattr(numpy, "bool"):
    numpy.bool = bool


def release_versions() -> str:
    """Return the versions of the libraries that a run's results depend on, as one line."""
    return "torch %s, timm %s" % (torch.__version__, timm.__version__)
