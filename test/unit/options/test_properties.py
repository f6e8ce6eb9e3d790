"""Whatever is written on a command line or in a configuration file: a run trains, or one line says what is wrong."""

import contextlib
import faulthandler
import io
import itertools
import os
import shutil
import signal
import sys

import pytest
import torch
import wild_options
import yaml
from image_folders import make_folder
from in_process import LAUNCHERS, restore
from wild_options import st

import engine
import main
from options import parsing
from pipeline import loader
from runtime.compat import create_model
from training import build, describe

hypothesis = pytest.importorskip("hypothesis", reason=wild_options.REASON)
pytestmark = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="a hang is found by a Unix signal")

SECONDS = 20  # that an example may take; nearly all take less than 0.2
MEMORY = 4 * 2**30  # more bytes than any example needs: a blow-up must not take the machine with it
ACTIONS = parsing.build_parser()._actions
IN_FILES = [action for action in ACTIONS if action.dest not in ("help", "config")]
BASE = ["--input-size=32", "--batch-size=4", "--no-repeated-aug", "--num-workers=0", "--device=cpu", "--amp=none"]
BASE += ["--epochs=2", "--warmup-epochs=1"]


class Trained(BaseException):
    """Steps were trained, or everything was ready for a step that would take long: the run is as good as any."""


class Hang(BaseException):
    pass


class TwoSteps(engine.Progress):
    """Ends the run after two steps: what the first one overflows, the loss of the second one shows."""

    def watch(self, batches, parts=1):
        yield from itertools.islice(super().watch(batches, parts), 2)
        raise Trained()


def stop_if_large(options, *_):
    """In the place of describe.log_start, the last thing before the work: large pictures take long, but not in vain."""
    if options.input_size > 64:
        raise Trained()


def load_here(dataset, num_workers, **options):
    """A DataLoader without processes of its own, of which an example could start a thousand."""
    assert 0 <= num_workers <= 1024
    options.pop("persistent_workers", None)
    return torch.utils.data.DataLoader(dataset, num_workers=0, **dict(options, timeout=0))


class Sandbox:
    """A folder to run examples in: its contents are made anew for each."""

    def __init__(self, root):
        self.root, self.work = str(root), os.path.join(str(root), "work")
        self.data = make_folder(root / "data", train=(("a", 4), ("b", 4)), val=(("a", 2), ("b", 2)))
        self.base = ["--data-path=" + self.data, *BASE]
        self.options = vars(parsing.build_parser().parse_args(self.base))
        self.options = {name: value for name, value in self.options.items() if value is not None}
        self.trained = os.path.join(self.root, "trained")

    def prepare(self):
        for name in os.listdir(self.root):
            if name.startswith("work"):
                shutil.rmtree(os.path.join(self.root, name))
        os.makedirs(os.path.join(self.work, "a folder"))
        os.chdir(self.work)
        for name, content in (("a file", b"lr: 1e-3\n"), ("binary", bytes(range(256))), ("empty", b"")):
            with open(name, "wb") as file:
                file.write(content)
        os.symlink("loop", "loop")
        os.symlink("nowhere", "dangling")
        if os.path.isdir(self.trained):
            shutil.copytree(self.trained, "run")
            torch.save({"model": {"x": torch.zeros(1)}}, "other.pth")


@contextlib.contextmanager
def limited():
    """Interrupt what takes long by Hang; what no signal interrupts ends the whole process, with its stack."""

    def interrupt(*_):
        raise Hang()

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    faulthandler.dump_traceback_later(6 * SECONDS, exit=True, file=sys.__stderr__)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        faulthandler.cancel_dump_traceback_later()
        signal.signal(signal.SIGALRM, before)


def run(argv):
    """(exit status, or "trained"; what was written to stderr) of main.py in this process."""
    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    err = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="backslashreplace")
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), limited():
            status = main.main(argv)
    except Trained:
        status = "trained"
    except SystemExit as end:  # --help
        status = end.code or 0
    finally:
        restore()
    err.flush()
    return status, err.buffer.getvalue().decode("utf-8")


def with_file(sandbox, content):
    """Words that read the base from one configuration file, and then `content`, bytes or a dictionary."""
    with open(os.path.join(sandbox.root, "base.yaml"), "w") as file:
        yaml.safe_dump(sandbox.options, file)
    path = os.path.join(sandbox.root, "options.yaml")
    with open(path, "wb") as file:
        file.write(content if isinstance(content, bytes) else yaml.safe_dump(content).encode())
    return ["--config=" + file.name.replace("options", "base"), "--config", path]


def check(argv):
    """The run trains, or ends with status 1 or 2 and one line that begins with the right word."""
    status, err = run(argv)
    if status in (0, "trained"):
        assert not err, err
        return status
    assert status in (1, 2), err
    assert err.endswith("\n") and len(err.splitlines()) == 1, err
    assert err.startswith("main.py: error: " if status == 2 else "main.py: failed: "), err
    assert len(err) < 2000, len(err)
    return status


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory):
    folder = Sandbox(tmp_path_factory.mktemp("options"))
    patch = pytest.MonkeyPatch()
    patch.chdir(folder.root)
    for name in LAUNCHERS:
        patch.delenv(name, raising=False)
    small = {"dim": 8, "depths": (1, 1, 1, 1)}
    patch.setattr(build, "create_model", lambda name, **options: create_model(name, **dict(small, **options)))
    if hasattr(torch, "compile"):  # some optimizers compile themselves for minutes
        patch.setattr(torch, "compile", lambda function, **options: function)
    folder.prepare()
    assert run([*folder.base, "--epochs=1", "--output-dir=" + folder.trained]) == (0, "")
    patch.setattr(describe, "log_start", stop_if_large)
    patch.setattr(engine, "Progress", TwoSteps)
    patch.setattr(loader, "DataLoader", load_here)
    yield folder
    patch.undo()


def examples(count):
    return hypothesis.settings(
        max_examples=count,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )


@pytest.mark.parametrize("action", ACTIONS, ids=lambda action: action.option_strings[-1])
def test_hard_cases(sandbox, action):
    for words in wild_options.known_words(action):
        sandbox.prepare()
        check([*sandbox.base, *words])


@pytest.mark.parametrize("action", ACTIONS, ids=lambda action: action.option_strings[-1])
@examples(10)
@hypothesis.given(st.data())
def test_one_option(sandbox, action, data):
    sandbox.prepare()
    check([*sandbox.base, *data.draw(wild_options.words(action))])


@examples(150)
@hypothesis.given(wild_options.several(ACTIONS))
def test_several_options(sandbox, words):
    sandbox.prepare()
    check([*sandbox.base, *words])


@examples(150)
@hypothesis.given(wild_options.mappings(IN_FILES))
def test_options_in_a_file(sandbox, options):
    sandbox.prepare()
    check(with_file(sandbox, options))


@examples(100)
@hypothesis.given(wild_options.files())
def test_configuration_files(sandbox, content):
    sandbox.prepare()
    check(with_file(sandbox, content))


@pytest.mark.parametrize("content", wild_options.FILES, ids=lambda text: repr(text[:20]))
def test_known_configuration_files(sandbox, content):
    sandbox.prepare()
    check(with_file(sandbox, content.encode()))
