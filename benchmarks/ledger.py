"""The memory that one step moves, by kind of operator: counted on tensors without contents, so on any machine.

How an operator is counted stands in traffic.py. In training the step counted is the second, when the optimizer has its
state; without a loss scale.

Autocast is the CPU's, as torch does not differentiate tensors of a GPU that is not there. It differs from a GPU's in
that layer norm stays in the low precision instead of float32, in both formulations.

The floor is the least that must move when everything is fused but the kernel boundaries: each convolution and each
matrix product is one kernel; so is, in training, each reduction of a batch norm. Elementwise work, layer norms,
pooling, casts and changes of layout ride along in the kernels beside them. With, summed over the model, an image:

    in, out   elements that each convolution or linear layer reads and writes
    norm      elements of each batch norm's input
    skip      elements of each residual addition
    first     elements of the image;  P  parameters, B  batch size, e  bytes of an element in the chosen precision

    evaluation:  e * (in + out + skip)  +  4 P / B
    training:    e * (3 in + 2 out + 4 norm + 2 skip - first)  +  (4 + 8 + 28 + 8) P / B

In training the forward pass reads `in` and writes `out`; the backward pass reads the gradient of `out` and the saved
`in`, and writes the gradient of `in`, which the image does not need. A batch norm's input is read once for its
statistics; backward once more with its gradient for two sums, and a third time where the next kernel forms the gradient
from them. A residual addition reads the other branch, and its gradient likewise. Parameters are float32: they are read
forward; read backward, and their gradients written; AdamW reads parameter, gradient and two moments, and writes all but
the gradient (28 bytes); EMA reads and writes its copy. Logits, loss and the norms' buffers are left out, which makes
the floor lower, never higher. Kernels that hold several products, or compute again what others read, can go below it.
"""

import contextlib
import warnings
from collections import Counter

import baseline_smlp
import baseline_training
import torch
from torch import nn

from benchmarks.traffic import Contentless, Ledger
from options import parsing
from options.command_line import number
from runtime.amp import DTYPES, Precision
from runtime.compat import DropPath, create_model, create_optimizer
from runtime.device import Device
from runtime.ema import Ema
from runtime.errors import UserError
from training import losses

_CLASSES = 1000
_MEGABYTE = 1e6


def add_arguments(parser):
    """The options of `benchmark.py ledger`."""
    count = number(int, low=1, high=8192)
    parser.add_argument("--model", default="smlpnet_tiny", metavar="NAME", help="(default: smlpnet_tiny)")
    parser.add_argument("--batch-size", type=count, default=112, metavar="N", help="(default: 112)")
    parser.add_argument("--input-size", type=count, default=224, metavar="PIXELS", help="(default: 224)")
    parser.add_argument(
        "--precision", default="float16", choices=["float32"] + sorted(DTYPES), help="(default: float16)"
    )
    parser.add_argument("--mode", default="train", choices=["train", "eval"], help="(default: train)")


def run(options):
    """The rows of the ledger: MB an image of each kind of operator, plain and ours, and the floor."""
    known = baseline_smlp.WIDTHS_AND_DEPTHS
    if options.model not in known:
        raise UserError("--model %s is unknown; there are %s" % (options.model, ", ".join(known)))
    with Contentless():
        try:
            ours = create_model(options.model, image_size=options.input_size, num_classes=_CLASSES)
        except ValueError as error:
            raise UserError("--input-size %d: %s" % (options.input_size, error)) from None
        plain = baseline_smlp.baseline_model(options.model, image_size=options.input_size, num_classes=_CLASSES)
        images = torch.randn(options.batch_size, 3, options.input_size, options.input_size)
        for model in (ours, plain):
            make_copyable(model)
        least = floor(plain, images, options.precision, options.mode == "train")
        laid = images.contiguous(memory_format=Device("cpu").memory_format)  # as the loaders give them
        tables = {"plain": count(plain, baseline_step, images, options), "ours": count(ours, our_step, laid, options)}
    total = sum(tables["plain"].values())
    found = [("floor", least)]
    for name, table in tables.items():
        found.append(("%s: total" % name, sum(table.values())))
    for name, table in tables.items():
        found += [("%s: %s" % (name, kind), moved) for kind, moved in table.most_common()]
    return [
        {
            "setting": setting,
            "measure": "memory traffic",
            "value": moved / len(images) / _MEGABYTE,
            "unit": "MB an image",
            "ratio": moved / total,
        }
        for setting, moved in found
    ]


def make_copyable(model):
    """Make the counts of batches tensors without contents: those that torch.tensor made keep theirs, and deepcopy
    stumbles over them."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.num_batches_tracked = torch.zeros((), dtype=torch.int64)


def count(model, make_step, images, options):
    """{kind: bytes} that the batch `images` moves in one pass or step."""
    ledger = Ledger()
    if options.mode == "eval":
        model.eval()
        with torch.no_grad(), ledger, autocast(options.precision):
            model(images)
        return ledger.moved
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Accessing the data pointer of FakeTensor")  # deepcopy does so, for the EMA
        step = make_step(model.train(), ledger, options.precision)
    targets = torch.rand(len(images), _CLASSES)
    with ledger:
        step(images, targets)
        ledger.moved.clear()
        step(images, targets)
    return ledger.moved


def autocast(precision):
    """The context of a forward pass in `precision`."""
    return contextlib.nullcontext() if precision == "float32" else torch.autocast("cpu", dtype=DTYPES[precision])


def baseline_step(model, ledger, precision):
    """The plain training step, its optimizer and EMA kept apart."""
    optimizer, ema = baseline_training.baseline_optimizer(model), baseline_training.BaselineEma(model)
    optimizer.step = ledger.as_part("optimizer", optimizer.step)
    ema.update = ledger.as_part("EMA", ema.update)
    return baseline_training.baseline_step(model, optimizer, ema, Device("cpu"), lambda: autocast(precision))


def our_step(model, ledger, precision):
    """The training step of engine.py on one process, its optimizer and EMA kept apart."""
    options = parsing.parse(["--data-path=unused"])
    optimizer = create_optimizer(options, model)  # as optim.py does, whose rehearsal needs contents
    ema = Ema(model, options.model_ema_decay)
    criterion, policy = losses.build_criterion(options.mixes, options.smoothing), Precision()
    update, follow = ledger.as_part("optimizer", policy.step), ledger.as_part("EMA", ema.update)

    def step(images, targets):
        with autocast(precision):
            loss = criterion(images, model(images), targets)
        policy.backward(loss, optimizer)
        update(optimizer, model.parameters())
        follow(model)

    return step


def floor(plain, images, precision, is_training):
    """The least bytes that the batch `images` must move, by the formula at the top of this file."""
    item_bytes = 4 if precision == "float32" else 2
    parameters = sum(parameter.numel() for parameter in plain.parameters())
    counts = _elements(plain, images)
    if not is_training:
        return item_bytes * (counts["in"] + counts["out"] + counts["skip"]) + 4 * parameters
    activations = 3 * counts["in"] + 2 * counts["out"] + 4 * counts["norm"] + 2 * counts["skip"] - images.numel()
    return item_bytes * activations + (4 + 8 + 28 + 8) * parameters


def _elements(plain, images):
    """{"in", "out", "norm", "skip"}: elements of one forward pass, seen at the modules of the plain formulation."""
    counts = Counter()

    def see(module, inputs, output):
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            counts["in"] += inputs[0].numel()
            counts["out"] += output.numel()
        elif isinstance(module, nn.BatchNorm2d):
            counts["norm"] += output.numel()
        elif isinstance(module, DropPath):
            counts["skip"] += output.numel()

    hooks = [module.register_forward_hook(see) for module in plain.modules()]
    with torch.no_grad():
        plain.eval()(images)
    for hook in hooks:
        hook.remove()
    return counts
