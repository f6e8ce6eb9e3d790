"""Does this code learn what the published one learns? `python tools/parity.py --output DIR`

A small sMLPNet learns scikit-learn's digits, half of which it is tested on, in several ways. For each seed all begin
with the same weights, see the same images in the same order, and take the same random draws, so that what is left
between them is what the code makes of it:

    plain    the plain formulation, in the published loop, on float32 batches
    ours     this project's, through its own loop and loader
    fast     the same with --loader fast
    reshape  the same with the Ascend port's token layout

Accuracies after the last epoch are compared seed by seed. Two ways are equivalent when two one-sided t tests at 5 %
(Schuirmann 1987) put the mean difference within the margin, that is when its 90 % interval lies within. DIR gets
runs.jsonl (a run that has been stopped goes on), parity.json and parity.png.
"""

import argparse
import concurrent.futures
import json
import logging
import math
import multiprocessing
import os
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path[:0] = [ROOT, os.path.join(ROOT, "test", "reference")]

import torch  # noqa: E402 - after the path is set
from baseline_smlp import BaselineSMLPNet  # noqa: E402
from baseline_training import BaselineEma, baseline_optimizer, baseline_step  # noqa: E402
from torch.utils.data import DataLoader  # noqa: E402

import datasets  # noqa: E402
import engine  # noqa: E402
from benchmarks import runs  # noqa: E402
from benchmarks.data import Published  # noqa: E402
from models.smlp import sMLPNet  # noqa: E402
from runtime.affinity import usable_cores  # noqa: E402
from runtime.compat import register_model  # noqa: E402
from tools.make_digits import write_digits  # noqa: E402
from training import build  # noqa: E402
from utils import write_json  # noqa: E402

SHAPE = {"dim": 16, "depths": (1, 1, 2, 1)}
WAYS = {"plain": [], "ours": [], "fast": ["--loader=fast"], "reshape": ["--token-layout=reshape"]}
CLASSES, SIDE, CONFIDENCE = 10, 32, 0.9
RECIPE = ["--input-size=32", "--batch-size=64", "--lr=0.024", "--warmup-epochs=2", "--warmup-lr=1e-4", "--min-lr=1e-5"]
RECIPE += ["--aa=rand-m5-mstd0.5-inc1", "--hflip=0", "--reprob=0.1", "--mixup=0.1", "--cutmix=0", "--no-pin-mem"]
RECIPE += [
    "--no-repeated-aug",
    "--device=cpu",
    "--amp=none",
    "--num-workers=0",
    "--model-ema-decay=0.9",
    "--print-freq=1000",
]


@register_model
def smlpnet_parity(**kwargs):
    """The small network of the comparison."""
    return sMLPNet(**dict(SHAPE, **kwargs))


def main():
    parser = argparse.ArgumentParser(description="Compare what the plain formulation and this code learn.")
    parser.add_argument("--output", required=True, metavar="DIR", help="for runs.jsonl, parity.json and parity.png")
    parser.add_argument("--seeds", type=int, default=40, help="(default: 40)")
    parser.add_argument("--epochs", type=int, default=24, help="(default: 24)")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), help="(default: all)")
    parser.add_argument("--margin", type=float, default=0.3, help="of equivalence, percentage points (default: 0.3)")
    parser.add_argument("--processes", type=int, default=usable_cores(), help="(default: the cores)")
    args = parser.parse_args()
    if args.seeds < 2:
        parser.error("--seeds %d: a difference needs at least 2" % args.seeds)
    os.makedirs(args.output, exist_ok=True)
    curves = collect(args)
    results = compare(curves, args.margin)
    write_json(os.path.join(args.output, "parity.json"), {"options": vars(args), "recipe": RECIPE, "results": results})
    draw(curves, results, args.margin, os.path.join(args.output, "parity.png"))
    for line in table(results):
        print(line)
    return 0 if all(result["equivalent"] for name, result in results.items() if name in ("ours", "fast")) else 1


def collect(args):
    """{way: {seed: {"loss": [...], "accuracy": [...]}}}, from runs.jsonl as far as it goes."""
    path = os.path.join(args.output, "runs.jsonl")
    curves = {way: {} for way in args.ways}
    if os.path.exists(path):
        with open(path, encoding="utf-8") as file:
            for row in map(json.loads, file):
                if row["way"] in curves and row["epochs"] == args.epochs and row["seed"] < args.seeds:
                    curves[row["way"]][row["seed"]] = row
    missing = [(way, seed) for seed in range(args.seeds) for way in args.ways if seed not in curves[way]]
    with tempfile.TemporaryDirectory() as folder, open(path, "a", encoding="utf-8") as file:
        write_digits(folder, val_every=2)
        context = multiprocessing.get_context("spawn")
        with concurrent.futures.ProcessPoolExecutor(args.processes, context) as pool:
            jobs = [pool.submit(learn, way, seed, args.epochs, folder) for way, seed in missing]
            for done, job in enumerate(concurrent.futures.as_completed(jobs), 1):
                row = job.result()
                curves[row["way"]][row["seed"]] = row
                file.write(json.dumps(row) + "\n")
                file.flush()
                print(
                    "%d of %d: %s, seed %d: %.2f %%" % (done, len(jobs), row["way"], row["seed"], row["accuracy"][-1])
                )
    return curves


def learn(way, seed, epochs, folder):
    """One run: {"way", "seed", "epochs", "loss", "accuracy"}, the latter two a value an epoch."""
    torch.set_num_threads(1)
    logging.disable(logging.INFO)
    words = ["--model=smlpnet_parity", "--data-path=" + folder, "--seed=%d" % seed, "--epochs=%d" % epochs]
    options, run = runs.make_run(words + RECIPE + WAYS[way], CLASSES)
    loaders = datasets.build_loaders(options, run.ranks)
    epoch_of = baseline_epoch(options, run, loaders) if way == "plain" else own_epoch(run, loaders)
    pairs = [epoch_of(epoch) for epoch in range(epochs)]
    loss, accuracy = zip(*pairs)
    return {"way": way, "seed": seed, "epochs": epochs, "loss": loss, "accuracy": accuracy}


def own_epoch(run, loaders):
    """A function epoch -> (training loss, accuracy of the weights in percent)."""

    def epoch_of(epoch):
        loss = engine.train_one_epoch(run, loaders.train, epoch)["train_loss"]
        return loss, engine.evaluate(run, run.bare_model, loaders.val).acc1

    return epoch_of


def baseline_epoch(options, run, loaders):
    """The same in the published way, from the weights of `run`."""
    model = BaselineSMLPNet(image_size=SIDE, num_classes=CLASSES, **SHAPE)
    model.load_state_dict(run.bare_model.state_dict())
    optimizer, ema = baseline_optimizer(model, options.lr), BaselineEma(model, options.model_ema_decay)
    step, mixup = baseline_step(model, optimizer, ema, run.device), build.build_mixup(options, CLASSES)
    train, val = (
        Published(part.dataset.images, datasets.build_transform(options, is_train))
        for part, is_train in ((loaders.train, True), (loaders.val, False))
    )
    order = loaders.train.batch_sampler
    batches = DataLoader(train, batch_sampler=order)

    def epoch_of(epoch):
        order.set_epoch(epoch)
        for group in optimizer.param_groups:
            group["lr"] = published_rate(options, max(epoch - 1, 0))
        model.train()
        losses = []
        for number, (images, targets) in enumerate(batches):
            run.seed_step(epoch, number, 0)
            losses.append(step(*mixup(images, targets)))
        return sum(losses) / len(losses), baseline_accuracy(model, DataLoader(val, 128))

    return epoch_of


def published_rate(options, time):
    """Cosine after a linear warm-up; the peak is for a global batch of 512."""
    peak = options.lr * options.batch_size / 512
    if time < options.warmup_epochs:
        return options.warmup_lr + time * (peak - options.warmup_lr) / options.warmup_epochs
    wave = 1 + math.cos(math.pi * time / options.epochs)
    return options.min_lr + 0.5 * (peak - options.min_lr) * wave


@torch.no_grad()
def baseline_accuracy(model, batches):
    """Percent."""
    model.eval()
    hits = [model(images).argmax(dim=1).eq(targets) for images, targets in batches]
    return 100 * torch.cat(hits).double().mean().item()


def compare(curves, margin):
    """{way: {...}} of the accuracies after the last epoch: plain's, and the others beside plain's (reshape: ours)."""
    last = {way: {seed: row["accuracy"][-1] for seed, row in rows.items()} for way, rows in curves.items()}
    results = {}
    for way, values in last.items():
        base = {"plain": None, "reshape": "ours"}.get(way, "plain")
        results[way] = {"mean": sum(values.values()) / len(values), "runs": len(values), "beside": base}
        if base in last:
            differences = [values[seed] - last[base][seed] for seed in values]
            results[way].update(equivalence(differences, margin))
    return results


def equivalence(differences, margin):
    """{"difference", "low", "high", "p", "equivalent"} of paired differences, by two one-sided t tests."""
    from scipy import stats

    count = len(differences)
    mean = sum(differences) / count
    error = math.sqrt(sum((value - mean) ** 2 for value in differences) / (count - 1) / count)
    half = stats.t.ppf((1 + CONFIDENCE) / 2, count - 1) * error
    if error:
        p = max(stats.t.sf((mean + margin) / error, count - 1), stats.t.cdf((mean - margin) / error, count - 1))
    else:
        p = float(abs(mean) >= margin)
    low, high = mean - half, mean + half
    is_equivalent = bool(-margin < low and high < margin)
    return {"difference": mean, "low": low, "high": high, "p": float(p), "equivalent": is_equivalent}


def table(results):
    """The lines to print."""
    head = ("way", "runs", "Acc@1 %", "difference in points, its 90 % interval, p of two one-sided tests")
    lines = ["%-8s %5s %9s  %s" % head]
    for way, result in results.items():
        line = "%-8s %5d %9.3f" % (way, result["runs"], result["mean"])
        if "difference" in result:
            line += "  beside {beside}: {difference:+.3f} ({low:+.3f} to {high:+.3f}), p {p:.2g}".format(**result)
            line += ", equivalent" if result["equivalent"] else ", not shown to be equivalent"
        lines.append(line)
    return lines


def draw(curves, results, margin, path):
    """Mean curves with 95 % bands, and the differences with their intervals beside the margin."""
    import matplotlib

    matplotlib.use("Agg")
    import numpy
    from matplotlib import pyplot
    from scipy import stats

    figure, panels = pyplot.subplots(1, 3, figsize=(15, 4.5), layout="constrained")
    for panel, key, label in ((panels[0], "loss", "training loss"), (panels[1], "accuracy", "Acc@1 (%)")):
        for way, rows in curves.items():
            values = numpy.array([row[key] for row in rows.values()])
            mean = values.mean(axis=0)
            band = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values, axis=0)
            epochs = numpy.arange(1, len(mean) + 1)
            panel.plot(epochs, mean, label="%s (%d runs)" % (way, len(values)))
            panel.fill_between(epochs, mean - band, mean + band, alpha=0.25)
        panel.set_xlabel("epoch")
        panel.set_ylabel(label + ", mean and 95 % band")
        panel.legend()
    least = min(row["accuracy"][-1] for rows in curves.values() for row in rows.values())
    panels[1].set_ylim(max(0, least - 3), min(100, panels[1].get_ylim()[1]))
    compared = [(way, result) for way, result in results.items() if "difference" in result]
    for place, (_, result) in enumerate(compared):
        panels[2].plot([result["low"], result["high"]], [place, place], color="black")
        panels[2].plot(result["difference"], place, "o", color="#4477aa")
    panels[2].set_yticks(range(len(compared)), ["%s - %s" % (way, result["beside"]) for way, result in compared])
    panels[2].axvline(0, color="gray", linewidth=1)
    for limit in (-margin, margin):
        panels[2].axvline(limit, color="gray", linewidth=1, linestyle="--")
    panels[2].set_xlabel("difference in points, 90 % interval, margin")
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


if __name__ == "__main__":
    sys.exit(main())
