"""Images a second of a training step and of a forward pass, on batches that are there already.

The baseline is the plain formulation at the same precision, trained as the reference trains: the loss is read and the
device waited for in every step, the average is followed tensor by tensor. Other precisions than float32 are compared
with plain float32, too.
"""

import torch
from baseline_training import BaselineEma, baseline_optimizer, baseline_step

import engine
from benchmarks import runs, timing
from runtime.amp import select_precision
from runtime.compat import inference_mode
from runtime.compiling import compiles

TOP_OPERATORS = 15  # of a profile


def add_arguments(parser):
    runs.add_model_arguments(parser)
    parser.add_argument("--mode", default="both", choices=["train", "eval", "both"])
    parser.add_argument(
        "--precision", nargs="+", choices=["float32", "float16", "bfloat16"], help="(default: all here)"
    )
    parser.add_argument("--compile", action="store_true", help="measure torch.compile on a CPU too (minutes more)")
    parser.add_argument("--profile", action="store_true", help="print the operators of our training step instead")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each setting in a round (default: 3)")


def run(args):
    device = runs.settle(args)
    if args.profile:
        return _profile(args, device, (args.precision or _precisions(device))[-1])
    rows = []
    for mode in ("train", "eval") if args.mode == "both" else (args.mode,):
        for precision in args.precision or _precisions(device):
            rows += _measure(args, device, mode, precision)
    return rows


def _precisions(device):
    """float32, and what autocast takes here."""
    if device.kind == "cpu":
        return ["float32", "bfloat16"] if device.supports_bfloat16() else ["float32"]
    return ["float32", "float16"]


def _measure(args, device, mode, precision):
    """Rows of the settings of one precision; the ratios are to the plain formulation, in float32 and in this one."""
    peers = {"plain": _plain(args, device, mode, precision)}
    if precision != "float32":
        peers["plain float32"] = _plain(args, device, mode, "float32")
    peers["eager"] = _ours(args, device, mode, precision, "off")
    if args.compile or device.kind == "cuda":
        peers["compiled"] = _ours(args, device, mode, precision, "on")
    rates = timing.alternate(peers, args.rounds, args.seconds)
    rows = _rows(timing.summary(rates, "plain"), mode, precision, "images/s")
    if precision != "float32":
        rows += _rows(timing.summary(rates, "plain float32"), mode, precision, "to plain float32")
    return rows


def _rows(summary, mode, precision, measure):
    return [timing.row("%s %s %s" % (mode, precision, name), measure, values) for name, values in summary.items()]


def _precision_words(precision):
    return ["--amp=none"] if precision == "float32" else ["--amp=native", "--amp-dtype=" + precision]


def _ours(args, device, mode, precision, choice):
    """One unit of this project's work."""
    compiles(choice, device)  # UserError where that is not possible
    words = runs.words_of(args, "--compile=" + choice, *_precision_words(precision))
    _, run = runs.make_run(words)
    batch = runs.batch_for(device, args, device.memory_format)
    if mode == "eval":

        def forward(images):
            return engine.forward(run.bare_model, images, run.device, args.batch_size if run.is_compiled else None)

        return _evaluation(forward, run.bare_model, run.precision, device, batch[0])

    run.model.train()

    def train():
        runs.train_step(run, batch)
        device.synchronize()
        return len(batch[0])

    return train


def _plain(args, device, mode, precision):
    """One unit of the plain formulation's work."""
    model = runs.baseline_model(args.model, image_size=args.input_size, num_classes=runs.CLASSES).to(device.torch_device)
    images, targets = runs.batch_for(device, args, torch.contiguous_format)
    is_full = precision == "float32"
    chosen = select_precision("none" if is_full else "native", device, None if is_full else precision)
    if mode == "eval":
        return _evaluation(model, model, chosen, device, images)
    soft_targets = torch.full((len(images), runs.CLASSES), 0.1 / runs.CLASSES, device=images.device)
    soft_targets.scatter_(1, targets.unsqueeze(1), 0.9)
    scaler = getattr(chosen, "scaler", None)
    step = baseline_step(model.train(), baseline_optimizer(model), BaselineEma(model), device, chosen.autocast, scaler)

    def train():
        step(images, soft_targets)
        return len(images)

    return train


def _evaluation(forward, model, precision, device, images):
    model.eval()

    @inference_mode()
    def evaluate():
        with precision.autocast():
            forward(images)
        device.synchronize()
        return len(images)

    return evaluate


def _profile(args, device, precision):
    """Rows of the operators that take most of a training step: milliseconds, and their share."""
    work = _ours(args, device, "train", precision, "on" if args.compile else "off")
    for _ in range(2):
        work()
    with torch.profiler.profile() as profile:
        work()
    kind = "self_device_time_total" if device.is_accelerator else "self_cpu_time_total"
    times = sorted(((getattr(event, kind), event.key) for event in profile.key_averages()), reverse=True)
    total = sum(time for time, _ in times)
    return [
        {"setting": name, "measure": "share of the step", "value": time / 1000, "unit": "ms", "ratio": time / total}
        for time, name in times[:TOP_OPERATORS]
    ]
