"""The memory that one step moves, by kind of operator: counted on tensors without contents, so on any machine.

traffic.py defines how an operator is counted. In training the second step is counted, when the optimizer has its
state; without a loss scale.

Autocast is the CPU's, as torch does not differentiate tensors of a missing GPU, with a GPU's rule for layer norm: its
input is cast to float32. In the rows `plain` is the baseline, `eager` this code, `fused` this code with --fused on,
where Triton is installed; with as many programs as on an H100.

The floor is the least that must move when everything is fused but the kernel boundaries: each convolution and each
matrix product is one kernel; so is, in training, each reduction of a batch norm. Elementwise work, layer norms,
pooling, casts and changes of layout are fused into the kernels beside them. With, summed over the model, an image:

    in, out   elements that each convolution or linear layer reads and writes
    norm      elements of each batch norm's input
    skip      elements of each residual addition
    first     elements of the image;  P  parameters, B  batch size, e  bytes of an element in the chosen precision

    evaluation:  e * (in + out + skip)  +  4 P / B
    training:    e * (3 in + 2 out + 4 norm + 2 skip - first)  +  (4 + 8 + 28 + 8) P / B

In training the forward pass reads `in` and writes `out`; the backward pass reads the gradient of `out` and the saved
`in`, and writes the gradient of `in`, which the image does not need. A batch norm's input is read once for its
statistics; backward once more with its gradient for two sums, and a third time where the next kernel computes the
gradient from them. A residual addition reads the other branch, and its gradient likewise. Parameters are float32: they
are read forward; read backward, and their gradients written; AdamW reads parameter, gradient and two moments, and
writes all but the gradient (28 bytes); the EMA reads and writes its copy. Logits, loss and the norms' buffers are left
out, which makes the floor lower, never higher. Kernels that hold several products, or recompute what others read, can
go below it.
"""

from __future__ import annotations

import contextlib
import importlib.util
import warnings
from collections import Counter
from typing import TYPE_CHECKING, Any, Callable, Iterator

import baseline_smlp
import baseline_training
import torch
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

import models  # noqa: F401 - registers the models with timm
from benchmarks.report import Row
from benchmarks.traffic import Contentless, Ledger
from models.smlp import sMLPNet
from options import parsing
from runtime.amp import DTYPES, Precision
from runtime.autocast import dtype_of_autocast
from runtime.compat import DropPath, create_model, create_optimizer
from runtime.device import Device
from runtime.ema import Ema
from runtime.errors import UserError
from training import losses

if TYPE_CHECKING:
    import argparse

    from torch import Tensor

_CLASSES = 1000
_FLOAT32_ON_GPUS = {functional.layer_norm, functional.group_norm}
_MEGABYTE = 1e6


def run(options: argparse.Namespace) -> list[Row]:
    """Return rows of MB an image: the floor, and of the baseline and of ours the total and each kind of operator."""
    is_training = options.mode == "train"
    with Contentless():
        ours, fused = (our_model(options.model, options.input_size) for _ in range(2))
        baseline = baseline_smlp.baseline_model(options.model, image_size=options.input_size, num_classes=_CLASSES)
        images = torch.randn(options.batch_size, 3, options.input_size, options.input_size)
        for model in (ours, fused, baseline):
            make_copyable(model)
        least = floor(baseline, images, options.precision, is_training)
        laid = images.contiguous(memory_format=Device("cpu").memory_format)  # as the loaders return them
        tables = {
            "plain": count(baseline, baseline_step, images, options.precision, is_training),
            "eager": count(ours, our_step, laid, options.precision, is_training),
        }
        if isinstance(ours, sMLPNet) and importlib.util.find_spec("triton"):
            from models.fused.block import FusedBlock

            fused.apply_block = FusedBlock(fused.apply_block)
            tables["fused"] = count(fused, our_step, laid, options.precision, is_training)
    found = [("floor", least)]
    found += [(name, sum(table.values())) for name, table in tables.items()]
    for name, table in tables.items():
        found += [("%s: %s" % (name, kind), moved) for kind, moved in table.most_common()]
    total = sum(tables["plain"].values())
    return [
        Row(setting, "memory traffic", moved / len(images) / _MEGABYTE, "MB an image", moved / total)
        for setting, moved in found
    ]


def our_model(name: str, image_size: int) -> Any:
    """Return the model called `name`; UserError for a size that it cannot have."""
    try:
        return create_model(name, image_size=image_size, num_classes=_CLASSES)
    except ValueError as error:
        raise UserError("--input-size %d: %s" % (image_size, error)) from None


def make_copyable(model: nn.Module) -> None:
    """Replace the counts of batches by tensors without contents.

    torch.tensor made them with contents, which deepcopy cannot handle among tensors without.
    """
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.num_batches_tracked = torch.zeros((), dtype=torch.int64)


def count(
    model: nn.Module,
    make_step: Callable[[nn.Module, Ledger, str], Callable[[Tensor, Tensor], Any]],
    images: Tensor,
    precision: str,
    is_training: bool,
) -> Counter[str]:
    """Return the bytes of each kind of operator that the batch `images` moves in one pass, or in training one step."""
    ledger = Ledger()
    if not is_training:
        model.eval()
        with torch.no_grad(), ledger, autocast(precision):
            model(images)
        return ledger.moved
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Accessing the data pointer of FakeTensor")  # deepcopy does so, for the EMA
        step = make_step(model.train(), ledger, precision)
    targets = torch.rand(len(images), _CLASSES)
    with ledger:
        step(images, targets)
        ledger.moved.clear()
        step(images, targets)
    return ledger.moved


class NormsInFloat32(TorchFunctionMode):
    """A context in which autocast on a CPU casts the input of norms to float32, as autocast on a GPU does."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function in _FLOAT32_ON_GPUS and dtype_of_autocast("cpu") is not None:
            args = [_in_float32(value) for value in args]
            kwargs = {name: _in_float32(value) for name, value in kwargs.items()}
        return function(*args, **kwargs)


def _in_float32(value: Any) -> Any:
    return value.float() if isinstance(value, torch.Tensor) else value


@contextlib.contextmanager
def autocast(precision: str) -> Iterator[None]:
    """Make the context of a forward pass in `precision`."""
    if precision == "float32":
        yield
        return
    with NormsInFloat32(), torch.autocast("cpu", dtype=DTYPES[precision]):
        yield


def baseline_step(model: nn.Module, ledger: Ledger, precision: str) -> Callable[[Tensor, Tensor], Any]:
    """Return the baseline's training step, with its optimizer and EMA as parts of their own."""
    optimizer, ema = baseline_training.baseline_optimizer(model), baseline_training.BaselineEma(model)
    optimizer.step = ledger.as_part("optimizer", optimizer.step)
    ema.update = ledger.as_part("EMA", ema.update)
    return baseline_training.baseline_step(model, optimizer, ema, Device("cpu"), lambda: autocast(precision))


def our_step(model: nn.Module, ledger: Ledger, precision: str) -> Callable[[Tensor, Tensor], Any]:
    """Return the training step of engine.py on one process, with its optimizer and EMA as parts of their own."""
    options = parsing.parse(["--data-path=unused"])
    optimizer = create_optimizer(options, model)  # as optim.py does, whose rehearsal needs contents
    ema = Ema(model, options.model_ema_decay)
    criterion, policy = losses.build_criterion(options.mixes, options.smoothing), Precision()
    update_weights, update_ema = ledger.as_part("optimizer", policy.step), ledger.as_part("EMA", ema.update)

    def step(images: Tensor, targets: Tensor) -> None:
        with autocast(precision):
            loss = criterion(images, model(images), targets)
        policy.backward(loss, optimizer)
        update_weights(optimizer, model.parameters())
        update_ema(model)

    return step


def floor(baseline: nn.Module, images: Tensor, precision: str, is_training: bool) -> int:
    """Return the fewest bytes that the batch `images` must move, by the formula at the top of this file."""
    item_bytes = 4 if precision == "float32" else 2
    parameters = sum(parameter.numel() for parameter in baseline.parameters())
    elements = _elements(baseline, images)
    if not is_training:
        return item_bytes * (elements["in"] + elements["out"] + elements["skip"]) + 4 * parameters
    activations = 3 * elements["in"] + 2 * elements["out"] + 4 * elements["norm"] + 2 * elements["skip"]
    return item_bytes * (activations - images.numel()) + (4 + 8 + 28 + 8) * parameters


def _elements(baseline: nn.Module, images: Tensor) -> Counter[str]:
    """Return the elements "in", "out", "norm" and "skip" of one forward pass, counted at the baseline's modules."""
    elements: Counter[str] = Counter()

    def see(module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            elements["in"] += inputs[0].numel()
            elements["out"] += output.numel()
        elif isinstance(module, nn.BatchNorm2d):
            elements["norm"] += output.numel()
        elif isinstance(module, DropPath):
            elements["skip"] += output.numel()

    hooks = [module.register_forward_hook(see) for module in baseline.modules()]
    with torch.no_grad():
        baseline.eval()(images)
    for hook in hooks:
        hook.remove()
    return elements
