"""Runs of main.py on a tiny network that are compared, and what is seen of each."""

import contextlib
import hashlib
import io
import json
import os
import re
import shutil

import torch
from command_lines import parse
from containers import write_list
from folders import names_below
from image_folders import write_images
from in_process import restore
from loaders import first_of
from odd_pictures import decodable, encoded, pixels, write
from small_runs import log_of

import datasets
import main
from checkpoints import loading, store
from commands import train
from pipeline import batches
from runtime import distributed
from runtime.errors import UserError
from training import metrics
from training.run import Run

BASE = ["--input-size=32", "--batch-size=4", "--no-repeated-aug", "--num-workers=0", "--device=cpu", "--amp=none"]
BASE += ["--epochs=1", "--warmup-epochs=0", "--lr=0.05", "--model-ema-decay=0.5"]


class Bench:
    """A folder of runs. Words may name in braces what lies there: data, other (data), list (of both), trained (a run),
    weights (of the classes), work (of each).

    A run is repeated only for other words.
    """

    def __init__(self, root, patch):
        self.root, self.patch, self.outcomes = str(root), patch, {}
        self.places = {name: os.path.join(self.root, name) for name in ("data", "other", "damaged", "photos")}
        for name, place in self.places.items():
            write_images(place, train=4, val=3, side=38 if name == "other" else 40)
        with open(os.path.join(self.places["damaged"], "train", "cat", "00.png"), "wb") as file:
            file.write(b"no picture")
        odd = {"rotated.jpg": decodable()["rotated.jpg"], "more.gif": encoded(pixels(), "GIF")}
        write(os.path.join(self.places["photos"], "train", "cat"), odd)
        self.places["list"] = os.path.join(self.root, "list.csv")
        write_list(os.path.join(self.places["data"], "train"), self.places["list"])
        self.places["weights"] = os.path.join(self.root, "weights.json")
        classes = sorted(os.listdir(os.path.join(self.places["data"], "train")))
        with open(self.places["weights"], "w") as file:
            json.dump({name: 1.0 + number for number, name in enumerate(classes)}, file)
        for name, smoothing in (("low", 0.1), ("high", 0.5)):
            self.places[name] = os.path.join(self.root, name + ".yaml")
            with open(self.places[name], "w") as file:
                file.write("smoothing: %s\n" % smoothing)
        for name in ("trained", "trained_too"):
            self.places[name] = os.path.join(self.run(["--seed=%d" % len(name)]).work, "out")

    def run(self, words, prepare=None, kind=""):
        """Return the Outcome of a run that saves in the folder {work}/out, after prepare(that folder).

        Runs under other circumstances than these are of another `kind`.
        """
        key = (tuple(words), prepare, kind)
        if key not in self.outcomes:
            work = os.path.join(self.root, "work%d" % len(self.outcomes))
            os.mkdir(work)
            if prepare:
                prepare(self, os.path.join(work, "out"))
            base = ["--data-path=" + self.places["data"], "--output-dir=" + os.path.join(work, "out"), *BASE]
            words = [word.format(work=work, **self.places) for word in words]
            self.outcomes[key] = Outcome(self, work, [*base, *words])
        return self.outcomes[key]

    def parse(self, words):
        """Return the options of a run without an output folder."""
        words = [word.format(**self.places) for word in words]
        return parse(*BASE, "--data-path=" + self.places["data"], *words)


class Outcome:
    """What a run left behind in the folder `work`, printed, and asked of torch or of the system."""

    def __init__(self, bench, work, words):
        self.work, self.calls, self.state = work, [], {}
        out, err = io.StringIO(), io.StringIO()
        with bench.patch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            self._spy(patch)
            try:
                self.status = main.main(words)
                flags = torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic
                self.flags = (*flags, getattr(torch, "are_deterministic_algorithms_enabled", bool)())
            finally:
                restore()
        self.out, self.err = (text.getvalue().replace(work, "WORK") for text in (out, err))
        self.files = [os.path.relpath(path, work) for path in names_below(work)]

    def _spy(self, patch):
        """Keep the state that is saved, and note what else leaves no trace on a CPU."""

        def spy(owner, name, act):
            patch.setattr(owner, name, lambda *words, **more: self.calls.append(name) or act(*words, **more))

        def save(state, *words):
            self.calls.append("save")
            self.state = state
            really_save(state, *words)

        really_save = store.save
        patch.setattr(store, "save", save)
        spy(torch.nn.Module, "cpu", torch.nn.Module.cpu)
        spy(train, "bind_cores", lambda *_: None)
        if hasattr(torch, "compile"):
            spy(torch, "compile", lambda function, **_: function)

    def digest(self, part):
        """Return a digest of the last checkpoint's "model" or "model_ema"; None where it has none."""
        assert self.status == 0, self.err
        found = hashlib.sha256()
        for name, value in self.state.get(part, {}).items():
            found.update(name.encode() + value.numpy().tobytes())
        return found.hexdigest() if part in self.state else None


# ---- what is seen of a run


def weights(bench, words):
    """The trained weights."""
    return bench.run(words).digest("model")


def ema(bench, words):
    """The EMA weights, where those of the model are the same."""
    assert weights(bench, words) == weights(bench, [])
    return bench.run(words).digest("model_ema")


def validation(bench, words):
    """The loss on the validation images."""
    return [row["test_loss"] for row in log_of(os.path.join(bench.run(words).work, "out"))]


def ending(bench, words):
    """How the run ends, and the digest of the weights where it ends well."""
    outcome = bench.run(words)
    return outcome.status, outcome.err, outcome.status or weights(bench, words)


def files(bench, words):
    """The files that it leaves behind, and how it ends."""
    outcome = bench.run(words)
    return outcome.files, outcome.status


def printed(bench, words):
    """What it prints, without times."""
    text = bench.run(words).out
    return re.sub(r"\d+\.\d+|\d+:\d\d:\d\d|^\[[-: \d]+", "TIME", text, flags=re.M)


def warned(bench, words):
    """The options that have no effect."""
    return re.findall(r"--\S+ has no effect", bench.run(words).out)


def progress_lines(bench, words):
    """The number of lines within the epochs."""
    return len(re.findall(r"Epoch: \[\d+\] +\[", bench.run(words).out))


def epochs(bench, words):
    """The epochs that are trained."""
    return [row["epoch"] for row in log_of(os.path.join(bench.run(words).work, "out"))]


def best_epoch(bench, words):
    """The epoch whose weights best.pth holds, of a run whose accuracy and loss both rise."""
    results = iter(metrics.EvalResult(acc1=10.0 + step, acc5=50.0, loss=step, images=6, skipped=0) for step in range(9))
    with bench.patch.context() as patch:
        patch.setattr(metrics.Counts, "result", lambda counts: next(results))
        return loading.load(os.path.join(bench.run(words, kind="rising").work, "out", "best.pth"))["epoch"]


def flags(bench, words):
    """What torch is told about fast and deterministic kernels."""
    return bench.run(words).flags


def calls(name):
    """How often the run calls something of that name, and how it ends."""

    def called(bench, words):
        outcome = bench.run(words)
        return outcome.calls.count(name), outcome.status

    return called


def _copy_run(bench, folder):
    shutil.copytree(bench.places["trained"], folder)


def beside_a_run(bench, words):
    """What a run starts from in the folder of another, and the folders that there are then."""
    outcome = bench.run(words, _copy_run)
    folders = len(os.listdir(outcome.work))
    return re.findall(r"start +from (.*)", outcome.out), folders


def poisoned(bench, words):
    """How a run ends whose first loss is not finite."""
    factors = [float("nan")]

    def mix(run, images, targets):
        return images * (factors.pop() if factors else 1), targets

    with bench.patch.context() as patch:
        patch.setattr(Run, "mix", mix)
        return bench.run(["--mixup=0", "--cutmix=0", *words], kind="poisoned").status


def joining(bench, words):
    """What the second of two processes calls to meet the first."""

    def connect(launch, backend, dist_url, timeout_s, *_):
        raise UserError("%s %s %s" % (launch, dist_url, timeout_s))

    with bench.patch.context() as patch:
        patch.setenv("RANK", "1")
        patch.setenv("WORLD_SIZE", "2")
        patch.setattr(distributed, "connect", connect)
        return bench.run(words, kind="joining").err


def loader(bench, words):
    """What is asked of the loader on an accelerator: its processes, their patience, page-locked memory."""
    ranks = first_of(1)
    ranks.device.is_accelerator = True
    asked = []
    with bench.patch.context() as patch:
        patch.setattr(batches, "Loader", lambda *words, **_: asked.append(words[3:6]))
        datasets.build_loaders(bench.parse(words), ranks)
    return asked


def shard(bench, words):
    """What the first of two processes evaluates."""
    val = datasets.build_loaders(bench.parse(words), first_of(2)).val
    return val.is_sharded, list(val.batch_sampler)
