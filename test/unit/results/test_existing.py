"""Whose an output folder is: a run's, which may be renamed, or the user's, where nothing is moved or overwritten."""

import json
import os
import socket

import pytest
import torch

from checkpoints import store
from options import parsing
from results import existing, lock, trackers
from results import folder as output_folder
from results.plan import Plan, make_plan
from runtime.errors import UserError

ROW = {"epoch": 0, "train_loss": 1.0, "images_per_second": 2.0}
FOREIGN_ROW = {"train_lr": 0.1, "train_loss": 1.0, "test_acc1": 5.0, "epoch": 0, "n_parameters": 7}  # of DeiT
SUMMARY = {"epochs_done": 1, "virtual_ranks": 1}


def options(folder, *words):
    return parsing.parse(["--data-path=data", "--output-dir=%s" % folder] + list(words))


def write_run(folder):
    """Write the files of a run that has just begun, and a checkpoint."""
    os.makedirs(str(folder), exist_ok=True)
    output_folder.write_config(options(folder))
    (folder / ".lock").write_text("")
    store.save({"model": {"w": torch.zeros(1)}, "epoch": 1, "format": 1}, str(folder), True)


@pytest.mark.parametrize(
    "files, expected",
    [
        ({}, False),
        ({"thesis.txt": "chapter 1"}, False),
        ({"config.yaml": "lr: 1\n", ".lock": "", "checkpoint.pth": "x", "best.pth": "x"}, False),
        ({"config.yaml": existing.CONFIG_TITLE + "\nlr: 1\n", "best.pth": "x"}, False),
        ({"config.yaml": existing.CONFIG_TITLE + "\nlr: 1\n", ".lock": ""}, True),
        ({"log.txt": json.dumps(FOREIGN_ROW) + "\n", "checkpoint.pth": "x"}, False),
        ({"log.txt": "my notes\n"}, False),
        ({"log.txt": json.dumps(ROW) + "\nhalf a li"}, True),
        ({"summary.json": "[" * 10**5}, False),
        ({"summary.json": '{"status": "complete"}'}, False),
        ({"summary.json": json.dumps(SUMMARY)}, True),
        ({"train_0.log": "a log of something", ".lock": ""}, False),
    ],
    ids=str,
)
def test_a_run_is_known_by_what_it_writes(tmp_path, files, expected):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert existing.holds_run(str(tmp_path)) == expected


@pytest.mark.parametrize("mode", ["resume", "match", "rename"])
def test_a_folder_of_the_user_is_used_in_place(tmp_path, mode):
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "thesis.txt").write_text("chapter 1")
    chosen = options(tmp_path / "work", "--existing-output=" + mode)
    output_folder.hold(chosen)
    plan = make_plan(chosen)
    output_folder.check_plan(chosen, plan)
    assert output_folder.prepare(chosen, plan) is None
    assert os.listdir(str(tmp_path)) == ["work"]
    assert (tmp_path / "work" / "thesis.txt").read_text() == "chapter 1"


@pytest.mark.parametrize(
    "name", ["best.pth", "checkpoint.pth", "config.yaml", "log.txt", "summary.json", "train_0.log"]
)
@pytest.mark.parametrize("mode", ["resume", "match", "rename"])
def test_a_file_of_the_user_where_the_run_would_write_is_refused(tmp_path, name, mode):
    (tmp_path / name).write_text("the user's")
    chosen = options(tmp_path, "--existing-output=" + mode)
    with pytest.raises(UserError, match="it holds no run, but a file %s, which a run would overwrite" % name):
        output_folder.check_plan(chosen, Plan())
    assert os.listdir(str(tmp_path)) == [name] and (tmp_path / name).read_text() == "the user's"


def test_a_checkpoint_without_its_run_is_resumed_if_this_program_wrote_it(tmp_path):
    for entries, is_refused in (({"format": 1, "epoch": 3}, False), ({"epoch": 3}, True), ({}, True)):
        store.save_as(dict({"model": {"w": torch.zeros(1)}}, **entries), str(tmp_path / "best.pth"))
        chosen = options(tmp_path)
        plan = make_plan(chosen)
        assert plan.loaded is not None
        if is_refused:
            with pytest.raises(UserError, match="holds no run, but a file best.pth"):
                output_folder.check_plan(chosen, plan)
        else:
            output_folder.check_plan(chosen, plan)


def test_finetune_is_not_dropped_for_a_checkpoint_without_a_run(tmp_path):
    store.save_as({"model": {"w": torch.zeros(1)}, "format": 1, "epoch": 3}, str(tmp_path / "best.pth"))
    chosen = options(tmp_path, "--finetune=%s" % (tmp_path / "best.pth"))
    plan = make_plan(chosen)
    assert plan.loaded is None
    with pytest.raises(UserError, match="best.pth, which a run would overwrite"):
        output_folder.check_plan(chosen, plan)


def names(folder):
    return sorted(os.listdir(str(folder)))


def test_what_is_not_the_run_s_stays_where_it_is(tmp_path):
    out = tmp_path / "out"
    write_run(out)
    own = names(out) + ["index.train.%016x" % 7, "best.pth.20250102-030405", "SPACH-SMLP_bs4_1p_acc.log", "report.html"]
    for name in own[-4:]:
        (out / name).write_text("of the run")
    (out / "tensorboard").mkdir()
    (out / "tensorboard" / "tracker.json").write_text("{}")
    (out / "thesis.txt").write_text("chapter 1")
    (out / "wandb").mkdir()  # no run of ours has made it
    (out / "photos").mkdir()
    chosen = options(out, "--existing-output=rename")
    output_folder.hold(chosen)
    message = output_folder.prepare(chosen, make_plan(chosen))
    lock.unlock()
    (renamed,) = [name for name in os.listdir(str(tmp_path)) if name != "out"]
    assert names(tmp_path / renamed) == sorted(set(own) - {".lock"} | {"tensorboard"})
    assert names(out) == sorted([".lock", "config.yaml", "train_0.log", "thesis.txt", "photos", "wandb"])
    assert "other things, which stay: its files are moved to %s; resume that run with" % (tmp_path / renamed) in message


def test_a_link_to_the_output_folder_stays_a_link(tmp_path):
    write_run(tmp_path / "disk" / "out")
    os.symlink(str(tmp_path / "disk" / "out"), str(tmp_path / "link"))
    chosen = options(tmp_path / "link", "--existing-output=rename")
    output_folder.hold(chosen)
    message = output_folder.prepare(chosen, make_plan(chosen))
    lock.unlock()
    assert os.path.islink(str(tmp_path / "link")) and len(names(tmp_path / "disk")) == 2
    assert names(tmp_path / "disk" / "out") == [".lock", "config.yaml", "train_0.log"]
    assert "renamed to %s" % (tmp_path / "disk" / "out.") in message


@pytest.mark.parametrize("word", ["data-path", "resume", "finetune", "teacher-path", "index-cache", "config"])
def test_what_the_run_reads_is_not_renamed(tmp_path, word):
    """Whether it lies there, is reached by a link there, or is the folder itself under another name."""
    out = tmp_path / "out"
    write_run(out)
    (out / "inner").mkdir()
    (out / "inner" / "file").write_text("{}")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "file").write_text("{}")
    os.symlink(str(tmp_path / "data"), str(out / "by a link"))
    os.symlink(str(out / "by a link"), str(tmp_path / "outside"))
    os.symlink(str(out), str(tmp_path / "alias"))
    inside = ["out/inner", "out/inner/file", "out/by a link", "out/by a link/file", "outside/file", "alias/inner"]
    for path in inside if word != "config" else [path for path in inside if path.endswith("file")]:
        chosen = options(out, "--%s=%s" % (word, tmp_path / path))
        with pytest.raises(UserError, match="--%s .* lies in --output-dir .*name another --output-dir" % word):
            output_folder.check_plan(chosen, Plan(renames_folder=True))
    for path in ("data/file", "out2/file"):
        if word != "config" or path == "data/file":
            output_folder.check_plan(options(out, "--%s=%s" % (word, tmp_path / path)), Plan(renames_folder=True))


def make_special(path, kind):
    if kind == "pipe":
        os.mkfifo(str(path))
    elif kind == "device":
        os.symlink("/dev/zero", str(path))
    elif kind == "socket":
        here = os.getcwd()
        os.chdir(str(path.parent))  # the name of a socket may not be long
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
        os.chdir(here)
    else:
        path.mkdir()


@pytest.mark.parametrize("kind", ["pipe", "device", "socket", "folder"])
@pytest.mark.parametrize("name", [".lock", "config.yaml", "log.txt", "summary.json", "train_0.log"])
def test_what_is_no_file_is_named_before_it_is_opened(tmp_path, name, kind):
    write_run(tmp_path)
    if (tmp_path / name).exists():
        (tmp_path / name).unlink()
    make_special(tmp_path / name, kind)
    for mode in ("resume", "match", "rename"):
        chosen = options(tmp_path, "--existing-output=" + mode)
        with pytest.raises(UserError, match="%s there is not a regular file: remove it" % name):
            output_folder.hold(chosen)
    make_plan(options(tmp_path, "--eval"))


@pytest.mark.parametrize("kind", ["pipe", "device", "socket", "folder"])
def test_the_checkpoint_before_one_that_is_no_file_is_resumed(tmp_path, kind):
    out = tmp_path / "out"
    write_run(out)
    os.rename(str(out / "checkpoint.pth"), str(out / "checkpoint.previous.pth"))
    make_special(out / "checkpoint.pth", kind)
    chosen = options(out)
    output_folder.hold(chosen)
    plan = make_plan(chosen)
    assert plan.loaded["epoch"] == 1 and plan.path.endswith("previous.pth")
    output_folder.prepare(chosen, plan)
    for number in (2, 3):
        store.save({"model": {}, "epoch": number}, str(out), True)
    odd = [name for name in names(out) if name.startswith("checkpoint.pth.damaged.")]
    assert len(odd) == 1 and not os.path.isfile(str(out / odd[0])) and names(tmp_path) == ["out"]


def test_a_tracker_s_state_that_is_no_file_is_not_waited_for(tmp_path):
    os.mkfifo(str(tmp_path / trackers.STATE))
    assert trackers._read_state(str(tmp_path / trackers.STATE))["next_epoch"] == 0
