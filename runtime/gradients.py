"""How the processes of a run average their gradients: DistributedDataParallel, whose buckets never change."""

from __future__ import annotations

import functools
import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Callable, Sequence

import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from runtime.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from runtime.device import Device


@dataclass(frozen=True)
class Averaging:
    """How gradients are averaged.

    `finds_unused` is for a model that leaves parameters without a gradient. With `may_share` the gradients may be views
    of the buckets that are sent, which apex does not allow. `compression` is "none" or "bf16".
    """

    finds_unused: bool = False
    may_share: bool = True
    compression: str = "none"


def parameters_without_gradient(model: nn.Module, images: Tensor) -> list[str]:
    """Return the names of the parameters that the outputs for `images` (B, 3, H, W) do not depend on.

    The pass is one of evaluation: it leaves statistics, gradients and generators as they are.
    """
    named = [(name, value) for name, value in model.named_parameters() if value.requires_grad]
    was_training = model.training
    try:
        outputs = model.eval()(images)
    finally:
        model.train(was_training)
    total = sum(output.sum() for output in (outputs if isinstance(outputs, tuple) else (outputs,)))
    found = torch.autograd.grad(total, [value for _, value in named], allow_unused=True)
    return [name for (name, _), gradient in zip(named, found) if gradient is None]


def average(model: nn.Module, device: Device, averaging: Averaging) -> nn.Module:
    """Return `model`, wrapped by DDP; all processes must call this, and take their first step after it."""
    hook = _compression_hook(device) if averaging.compression == "bf16" else None
    shares = averaging.may_share and not averaging.finds_unused and _can_share()
    wrapped = DistributedDataParallel(
        model,
        device_ids=[device.index] if device.is_accelerator else None,
        find_unused_parameters=averaging.finds_unused,
        **({"gradient_as_bucket_view": True} if shares else {}),
    )
    if hook is not None:
        wrapped.register_comm_hook(None, hook)
    if not averaging.finds_unused:  # otherwise DDP keeps its first buckets
        settle(wrapped, device)
    return wrapped


def settle(wrapped: DistributedDataParallel, device: Device) -> None:
    """Have DDP group its buckets for good, by two backward passes of zeros through all parameters.

    DDP regroups its buckets once, after its first backward pass, and with 3 or more processes a sum depends on the
    grouping: the first step of a resumed run would differ from the same step of an uninterrupted one. The passes take
    the parameters in their order in the model, so the buckets do not depend on how its blocks are computed either.
    """
    model = wrapped.module
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    replaced = vars(model).get("forward")  # apex puts one there
    model.forward = functools.partial(_add_nothing, parameters)
    try:
        for _ in range(2):  # the second one regroups
            wrapped(torch.zeros(1, device=device.torch_device)).sum().backward()
    finally:
        del model.forward
        if replaced is not None:
            model.forward = replaced
    for parameter in parameters:
        parameter.grad = None


def _add_nothing(parameters: Sequence[Tensor], total: Tensor) -> Tensor:
    """Return `total`, whose gradients reach the last of `parameters` first, as those of a model do."""
    for parameter in parameters:
        total = total + parameter.float().sum() * 0
    return total


def _can_share() -> bool:
    """Return whether gradients may be views of DDP's buckets: where zero_grad drops them, instead of filling them.

    DDP divides a gradient that it finds in its bucket, and multiplies another while it copies it there. So they would
    have other bits in the first step than in later ones.
    """
    drops = inspect.signature(torch.optim.Optimizer.zero_grad).parameters.get("set_to_none")
    has_views = "gradient_as_bucket_view" in inspect.signature(DistributedDataParallel.__init__).parameters
    return has_views and drops is not None and drops.default is True


def _compression_hook(device: Device) -> Callable[..., Any]:
    """Return the hook of DDP that sends gradients as bfloat16; UserError where torch cannot do so on the device."""
    try:
        from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook

        distributed.all_reduce(torch.zeros(1, dtype=torch.bfloat16, device=device.torch_device))
    except (ImportError, RuntimeError) as error:
        cause = str(error).strip().split("\n")[0]
        message = "--grad-compression bf16: torch %s cannot add bfloat16 over %s (%s): leave it out"
        raise UserError(message % (torch.__version__, device.backend, cause)) from None
    return bf16_compress_hook
