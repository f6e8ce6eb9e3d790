"""--dry-run: its estimate is about right, and it leaves no trace."""

import dataclasses
import errno
import os
import re
import shutil
from types import SimpleNamespace

import pytest
from folders import everything_below
from image_folders import write_images
from warm_runs import OPTIONS, current_torch, run_main
from wrappers import run_wrapper

import engine
import main
from checkpoints import store
from commands import dry_run
from runtime.errors import UserError

LINES = {
    "step": r"([\d.e-]+) s \(mean of (\d) after (\d) others\)",
    "data": r"(\d+) % of a step is waiting for images; one takes ([\d.]+) ms on a core, (\d+|no) loader processes",
    "epoch": r"(\d+) steps, and ([\d.e-]+) s of evaluation \((\d+) batches\) and saving",
    "time": r"(\d+) epochs, (\d+) steps: ([\d.e-]+) h \(\d+:\d\d:\d\d\)",
    "memory": r"(\d+) MiB resident in each of (\d) process",
    "checkpoint": r"([\d.]+) MB, written and read back in ([\d.e-]+) s; (.*) has ([\d.]+) MB free",
    "left behind": "(nothing)",
}


def words_for(images, folder, *more):
    return ["--data-path=" + images, "--output-dir=" + str(folder), "--epochs=3", *OPTIONS, *more]


def estimate_in(text):
    """Return {line: its numbers} of the estimate."""
    found = {}
    for name, form in LINES.items():
        match = re.search(r"^    %-13s %s" % (name, form), text.split("dry run\n")[1], re.MULTILINE)
        assert match, (name, text)
        found[name] = [float(part) if re.match(r"[\d.]", part) else part for part in match.groups()]
    return found


def assert_adds_up(found, epochs, steps, all_steps):
    """Hours = steps x seconds + epochs x (evaluation and saving), as the lines show them."""
    assert found["epoch"][0] == steps and found["time"][:2] == [epochs, all_steps]
    seconds = all_steps * found["step"][0] + epochs * found["epoch"][1]
    assert found["time"][2] == pytest.approx(seconds / 3600, rel=2e-3)
    assert 1e-4 < found["step"][0] < 5 and 1e-4 < found["epoch"][1] < 20
    assert 100 < found["memory"][0] < 8000


@pytest.mark.parametrize("nproc, workers", [(1, 0), (1, 2), (2, 0)])
def test_a_fresh_folder_is_not_made(tmp_path, nproc, workers):
    images = write_images(str(tmp_path / "images"), train=12 * nproc)
    out = tmp_path / "not" / "there" / "yet"
    words = words_for(images, out, "--num-workers=%d" % workers, "--dry-run")
    before = everything_below(images)
    status, text, err = run_main(words, nproc)
    assert status == 0, err
    assert sorted(os.listdir(str(tmp_path))) == ["images"] and everything_below(images) == before
    found = estimate_in(text)
    assert_adds_up(found, 3, 6, 18)
    assert found["step"][1:] == [2, 2] and found["memory"][1] == nproc
    assert found["data"][2] == (workers or "no")
    assert found["checkpoint"][2] == str(tmp_path)
    assert found["checkpoint"][3] == pytest.approx(shutil.disk_usage(str(tmp_path)).free / 1e6, rel=0.2)
    status, _, err = run_main(words[:-1], nproc)
    assert status == 0, err
    size = os.path.getsize(str(out / store.LATEST)) / 1e6
    assert found["checkpoint"][0] == pytest.approx(size, rel=0.01)


def test_a_run_is_left_as_it_is(tmp_path, images):
    """One that stopped within an epoch: what remains is counted, and its folder is unchanged."""
    out = tmp_path / "out"
    words = words_for(images, out, "--checkpoint-steps=1", "--print-freq=1")
    assert run_main(words, environ={"FAULT": "die:0:1:4"})[0]
    before = everything_below(tmp_path)
    status, text, err = run_main(words + ["--dry-run", "--tracker="])
    assert status == 0, err
    assert "start         from %s" % (out / store.LATEST) in text
    after = everything_below(tmp_path)
    after[str(tmp_path)] = before[str(tmp_path)]  # beside the folder a file was made and deleted
    assert after == before
    assert_adds_up(estimate_in(text), 2, 6, 12 - 4)
    status, text, err = run_main(words + ["--dry-run", "--existing-output=rename"])
    assert status == 0, err
    assert "holds another run: the run renames it" in text
    after = everything_below(tmp_path)
    after[str(tmp_path)] = before[str(tmp_path)]
    assert after == before
    assert_adds_up(estimate_in(text), 3, 6, 18)


def test_nothing_is_left_to_train(tmp_path, images):
    out = tmp_path / "out"
    assert run_main(words_for(images, out))[0] == 0
    before = everything_below(out)
    status, text, err = run_main(words_for(images, out, "--dry-run"))
    assert status == 0 and "dry run: nothing is left to train" in text, err
    assert everything_below(out) == before


@current_torch
def test_under_a_wrapper(project, images):
    words = ["--data_path=" + images, *OPTIONS, "--dry-run", "--epochs=3"]
    status, out, err = run_wrapper(project, "train_full_1p.sh", words)
    assert status == 0, err
    assert estimate_in(out)["time"][0] == 3 and "Final Train Accuracy" not in out
    assert not os.path.exists(os.path.join(project, "test", "output"))


@pytest.mark.parametrize(
    "more, fault, status, message",
    [
        (["--eval"], "", 2, "error: --dry-run rehearses training: leave out --eval"),
        (["--throughput"], "", 2, "error: --dry-run rehearses training: leave out --throughput"),
        (["--opt=nonsense"], "", 2, "error: --opt nonsense with its options is not possible"),
        (["--print-freq=1"], "nan:0:0:1", 1, "failed: the loss is not finite on rank 0 at epoch 0, step 1"),
        (["--start-epoch=3"], "", 2, "error: nothing to train"),
    ],
)
def test_what_fails_in_a_run_fails(tmp_path, images, more, fault, status, message):
    got, _, err = run_main(words_for(images, tmp_path / "out", "--dry-run", *more), environ={"FAULT": fault})
    assert got == status and err.startswith("main.py: " + message), err
    assert os.listdir(str(tmp_path)) == ["some images"]


def test_output_that_cannot_be_written(tmp_path, images, small, capsys):
    (tmp_path / "file").write_text("")
    os.symlink(str(tmp_path / "nowhere"), str(tmp_path / "dangling"))
    for out in ("file", "file/below", "dangling"):
        assert main.main(words_for(images, tmp_path / out, "--dry-run")) == 2
        assert "--output-dir %s cannot be written to" % (tmp_path / out) in capsys.readouterr().err


def test_out_of_memory(tmp_path, images, small, monkeypatch, capsys):
    def fill(*_):
        raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(engine, "take_gradients", fill)
    assert main.main(words_for(images, tmp_path / "out", "--dry-run")) == 1
    err = capsys.readouterr().err
    assert err.startswith("main.py: failed: out of memory (CUDA out of memory") and "lower --batch-size" in err


def test_a_full_disk(tmp_path, images, small, monkeypatch, capsys):
    """With room for three checkpoints it warns; where one cannot be written, it fails."""
    words = words_for(images, tmp_path / "out", "--dry-run")
    assert main.main(words) == 0
    size = estimate_in(capsys.readouterr().out)["checkpoint"][0]
    for count, warns in ((3.5, 1), (4.5, 0)):
        free = int(count * size * 1e6)
        monkeypatch.setattr(dry_run.shutil, "disk_usage", lambda path, free=free: SimpleNamespace(free=free))
        assert main.main(words) == 0
        assert capsys.readouterr().out.count("has no room for the 4 checkpoints") == warns

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(store.torch, "save", full)
    assert main.main(words) == 1
    assert "cannot be written: No space left on device" in capsys.readouterr().err
    assert os.listdir(str(tmp_path)) == ["some images"]


def test_nothing_is_written_without_an_output_folder(images, small, capsys):
    assert main.main(["--data-path=" + images, "--dry-run", "--epochs=2", "--resplit", *OPTIONS]) == 0
    text = capsys.readouterr().out
    assert "checkpoint    none is written: no --output-dir" in text and "--resplit has no effect" in text


def test_a_missing_tracker_is_reported(tmp_path, images, small, monkeypatch, capsys):
    monkeypatch.setitem(main.sys.modules, "wandb", None)
    assert main.main(words_for(images, tmp_path / "out", "--dry-run", "--tracker=wandb")) == 2
    assert "pip install wandb" in capsys.readouterr().err


def test_the_folder_itself_where_the_one_above_is_closed(tmp_path, monkeypatch):
    out = tmp_path / "out"
    out.mkdir()
    assert dry_run.probe_folder(str(out)) == str(tmp_path)
    monkeypatch.setattr(os, "access", lambda path, mode: path != str(tmp_path))
    assert dry_run.probe_folder(str(out)) == str(out)
    with pytest.raises(UserError, match="cannot be written to"):
        dry_run.probe_folder(str(tmp_path / "new"))


def test_memory_of_device_and_host():
    run = SimpleNamespace(device="cuda:0 (a card)", ranks=SimpleNamespace(world_size=8))
    text = dry_run.memory_text(run, [1234.4, 900.0], 10)
    assert text.startswith("1234 MiB of tensors on cuda:0 (a card) at most; 900 MiB resident in each of 8 process(es)")
    assert text.endswith("without its 10 loader processes")
    assert dry_run.memory_text(run, [0.0, 0.0], 0) == "unknown"


@pytest.mark.parametrize("rank", [0, 1])
def test_the_slowest_of_all_ranks_counts(rank):
    """Each rank puts its numbers at positions of their own."""
    own, others = [3.0, 1.0], [2.0, 5.0]

    def sum_list(numbers):
        assert numbers == ([*own, 0.0, 0.0] if rank == 0 else [0.0, 0.0, *own])
        return [*own, *others] if rank == 0 else [*others, *own]

    ranks = SimpleNamespace(rank=rank, world_size=2, sum_list=sum_list)
    assert dry_run.highest(ranks, own) == [3.0, 5.0]


class Clock:
    """A clock that only sleep() moves."""

    now = 0.0

    def perf_counter(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


class SlowImages:
    """Batches of 4 images, each of which takes 10 ms, from 2 processes that have the first ones ready."""

    batch_size, parts, workers = 4, 1, 2
    device = SimpleNamespace(synchronize=lambda: None)

    def __init__(self, clock):
        self.clock, self.dataset, self.batch_sampler = clock, self, type("", (list,), {})([[0, 1, 2, 3]])

    def __len__(self):
        return 9

    def __getitem__(self, index):
        self.clock.sleep(0.01)

    def epoch(self, epoch, first_step):
        return iter(range(9))


@pytest.mark.parametrize("worked, waited", [(0.005, 0.015), (0.02, 0.0), (0.05, 0.0)])
def test_loaders_that_cannot_keep_up(monkeypatch, worked, waited):
    """Two processes make a batch in 20 ms, whatever is ready in the first steps."""
    clock = Clock()
    monkeypatch.setattr(dry_run, "time", clock)
    first = dry_run.FirstSteps(SlowImages(clock))
    assert len(first) == 4
    for _ in first.epoch(0):
        clock.sleep(worked)
    pace = first.pace(SimpleNamespace(rank=0, world_size=1, cores=8, sum_list=list))
    assert dataclasses.astuple(pace) == pytest.approx((worked + waited, waited, 2, 2, 0.01))
    slower = first.pace(SimpleNamespace(rank=0, world_size=1, cores=1, sum_list=list))
    assert slower.waited == pytest.approx(max(0.0, 0.04 - worked))
