"""Whether the numbers are right on the card: logits, gradients, TF32, the loss scale, and layer norm.

The bounds of half precision are about four times what a CPU's autocast shows with the same weights and images.
"""

from __future__ import annotations

import contextlib
import math
from typing import TYPE_CHECKING, Any, ContextManager, Iterable

import recipe
import torch
from baseline_smlp import baseline_model
from baseline_training import BaselineEma, baseline_optimizer, baseline_step
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks import runs
from benchmarks.runs import Workload
from benchmarks.step import NOT_ON_A_CPU
from runtime.amp import DTYPES, NativePrecision
from runtime.compat import inference_mode

if TYPE_CHECKING:
    from benchmarks.findings import Findings
    from benchmarks.gpu_part import Setting
    from runtime.device import Device

MODEL = "smlpnet_tiny"
LOGIT_BOUNDS = {"float32": 5e-5, "float16": 2e-2, "bfloat16": 1.5e-1}  # of their standard deviation
LOSS_BOUNDS = {"float32": 1e-5, "float16": 5e-3, "bfloat16": 5e-2}
GRADIENT_BOUNDS = {"float32": 2e-5, "float16": 2e-2, "bfloat16": 1.5e-1}  # of the norm of all gradients
ROUNDING_BOUND = 1e-5  # of a float32 sum; TF32 has 10 bits, and shows 2e-4
TRAIN_SIZE = 64  # of models_train.json


def measure(setting: Setting, way: str) -> None:
    """Note the errors of this project's code on the device: of "eager", or of "fused" what differs from it."""
    device, findings = setting.device, setting.findings
    if way == "fused":
        if device.is_accelerator:
            _check_logits(setting, way)
            _check_gradients(device, findings, way)
        else:
            findings.note("logits", NOT_ON_A_CPU[way])
        return
    _check_float32(device, findings)
    _check_logits(setting, way)
    _check_gradients(device, findings, way)
    _note_layer_norm(device, findings)
    if device.is_accelerator:
        _check_overflow(setting)
    else:
        findings.note("overflow of the loss scale", "not run: a CPU has no loss scale")


def _made(way: str, blocks: str, **words: Any) -> torch.nn.Module:
    """Return the golden model, laid out in a `way`, whose `blocks` are "eager" or "fused"."""
    model = recipe.made(way, MODEL, **words)
    if blocks == "fused":
        from models.fused.block import FusedBlock  # needs Triton

        model.apply_block = FusedBlock(model.apply_block)
    return model


def _autocast(device: Device, precision: str) -> ContextManager[Any]:
    return contextlib.nullcontext() if precision == "float32" else NativePrecision(device, precision).autocast()


def _error(found: Iterable[torch.Tensor], exact: Iterable[torch.Tensor]) -> float:
    """Return the norm of the difference, relative to that of `exact`."""
    difference, norm = 0.0, 0.0
    for one, other in zip(found, exact):
        difference += float((one.double().cpu() - other).norm()) ** 2
        norm += float(other.norm()) ** 2
    return math.sqrt(difference / norm)


def _check_float32(device: Device, findings: Findings) -> None:
    """Compare float32 on the device, as --amp none leaves it, with float64: TF32 would round the inputs."""
    runs.make_run(Workload(MODEL, 2, 32, device).words("--amp=none", "--compile=off"))
    images, weight = recipe.normal("tf32 images", (4, 64, 16, 16)), recipe.normal("tf32 weight", (64, 64, 3, 3))
    for name, work in (
        ("convolution", lambda image, kernel: functional.conv2d(image, kernel)),
        ("matrix product", lambda image, kernel: image.flatten(2) @ image.flatten(2).transpose(1, 2)),
    ):
        found = work(images.to(device.torch_device), weight.to(device.torch_device))
        error = _error([found], [work(images.double(), weight.double())])
        findings.note("float32 %s, error" % name, error, at_most=ROUNDING_BOUND)


@inference_mode()
def _check_logits(setting: Setting, blocks: str) -> None:
    recorded = recipe.golden("models_eval")
    wanted = {want["input_size"]: want for want in recorded["other_image_sizes"].values()}
    wanted[224] = recorded["models"][MODEL]
    for size in setting.sizes.golden_sizes:
        images = recipe.normal("input", (2, 3, size, size)).to(setting.device.torch_device)
        for way in ("contiguous", "channels_last"):
            model = _made(way, blocks, image_size=size).to(setting.device.torch_device)
            for precision in ("float32", *DTYPES):
                with _autocast(setting.device, precision):
                    logits = model(recipe.laid(way, images)).double().cpu()
                error, is_same_class = 0.0, True
                for row, want in zip(logits, wanted[size]["logits"]):
                    difference = (row[:8] - torch.tensor(want["first8"], dtype=torch.float64)).abs().max()
                    error = max(error, float(difference) / want["std"])
                    is_same_class = is_same_class and int(row.argmax()) == want["argmax"]
                name = "logits at %d pixels, %s, %s" % (size, way, precision)
                setting.findings.note(name + ", error", error, at_most=LOGIT_BOUNDS[precision])
                setting.findings.check(name + ", same class", is_same_class)


def _check_gradients(device: Device, findings: Findings, blocks: str) -> None:
    """Compare one training step with the recorded loss, and its gradients with the baseline's in float64."""
    recorded = recipe.golden("models_train")[MODEL]
    words = {"image_size": TRAIN_SIZE, "num_classes": recorded["config"]["num_classes"]}
    images, targets = recipe.normal("input", (2, 3, TRAIN_SIZE, TRAIN_SIZE)), torch.tensor([3, 7])

    def step(model: torch.nn.Module, inputs: torch.Tensor, precision: str) -> tuple[float, list[torch.Tensor]]:
        with _autocast(device, precision):
            loss = functional.cross_entropy(model(inputs), targets.to(inputs.device))
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        return loss.item(), list(gradients)

    baseline = recipe.fill(baseline_model(MODEL, **words)).train()
    ours = _made("channels_last", blocks, **words).train().to(device.torch_device)
    _, exact = step(baseline.double(), images.double(), "float32")
    baseline = baseline.float().to(device.torch_device)
    on_device = images.to(device.torch_device)
    for precision in ("float32", *DTYPES):
        loss, gradients = step(ours, recipe.laid("channels_last", on_device), precision)
        error = abs(loss - recorded["loss_fp64"])
        findings.note("loss, %s, error" % precision, error, at_most=LOSS_BOUNDS[precision])
        bound = GRADIENT_BOUNDS[precision]
        findings.note("gradients, %s, error" % precision, _error(gradients, exact), at_most=bound)
        _, gradients = step(baseline, on_device, precision)
        findings.note("gradients of the baseline, %s, error" % precision, _error(gradients, exact))


class _LayerNorms(TorchDispatchMode):
    """A context that records the dtypes of what layer norms read and write."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = operator(*args, **(kwargs or {}))
        if "layer_norm" in str(operator) and isinstance(args[0], torch.Tensor):
            first = result[0] if isinstance(result, tuple) else result
            self.seen.add("%s -> %s" % (_name(args[0].dtype), _name(first.dtype)))
        return result


def _name(dtype: torch.dtype) -> str:
    return str(dtype).partition(".")[2]


def _note_layer_norm(device: Device, findings: Findings) -> None:
    """Note what layer norms read and write under autocast: float32 costs as much memory traffic as two of them."""
    model = recipe.made("channels_last", MODEL, image_size=32).train().to(device.torch_device)
    images = recipe.laid("channels_last", recipe.normal("input", (2, 3, 32, 32)).to(device.torch_device))
    for precision in DTYPES:
        with _LayerNorms() as norms, _autocast(device, precision):
            model(images)
        findings.note("layer norm under autocast, %s" % precision, ", ".join(sorted(norms.seen)) or "none seen")


def _check_overflow(setting: Setting) -> None:
    """Force float16 gradients to overflow, in our step and in the baseline's, and compare what remains as it was."""
    workload, findings = Workload(MODEL, 16, TRAIN_SIZE, setting.device), setting.findings
    _, run = runs.make_run(workload.words("--compile=off", "--amp=native", "--amp-dtype=float16"))
    assert isinstance(run.precision, NativePrecision)
    images, targets = workload.batch(run.device.memory_format)
    run.model.train()

    def ours() -> None:
        runs.train_step(run, (images, targets))

    scales = {"ours": _overflow(findings, "ours", ours, run.bare_model, run.optimizer, run.precision.scaler)}
    model = workload.baseline_model().train()
    selected, optimizer = NativePrecision(setting.device, "float16"), baseline_optimizer(model)
    take = baseline_step(model, optimizer, BaselineEma(model), setting.device, selected.autocast, selected.scaler)
    soft = torch.full((len(images), runs.CLASSES), 0.1 / runs.CLASSES, device=images.device)
    soft.scatter_(1, targets.unsqueeze(1), 0.9)

    def theirs() -> None:
        take(images.contiguous(), soft)

    scales["baseline"] = _overflow(findings, "baseline", theirs, model, optimizer, selected.scaler)
    findings.check("overflow: the same loss scale after it", scales["ours"] == scales["baseline"])


def _overflow(findings: Findings, who: str, step: Any, model: Any, optimizer: Any, scaler: Any) -> float:
    """Take two steps and one that overflows; return the loss scale after that."""
    for _ in range(2):
        step()
    parameters = list(model.parameters())
    states = [optimizer.state[parameter] for parameter in parameters]
    kept = [[parameter.detach().clone() for parameter in parameters]]
    kept += [[state[name].detach().clone() for state in states] for name in ("exp_avg", "exp_avg_sq", "step")]
    scaler.load_state_dict(dict(scaler.state_dict(), scale=2.0**40))
    step()
    now = [parameters] + [[state[name] for state in states] for name in ("exp_avg", "exp_avg_sq", "step")]
    for name, before, after in zip(("weights", "moments", "squared moments", "step counts"), kept, now):
        is_same = all(torch.equal(one, other) for one, other in zip(before, after))
        findings.check("overflow, %s: %s unchanged" % (who, name), is_same)
    findings.note("overflow, %s: loss scale after 2**40" % who, math.log2(scaler.get_scale()), "as a power of 2")
    return float(scaler.get_scale())
