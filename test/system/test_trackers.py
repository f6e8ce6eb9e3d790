"""--tracker: each epoch once, whatever happens to the run, and a tracker that fails ends no run.

TensorBoard's files are read back by tensorboard itself. Of Weights & Biases and SwanLab the real packages log, offline,
where they are installed; elsewhere a stand-in with the same calls, whose record is looked at.
"""

import importlib.util
import json
import os
import struct
import sys
import types

import pytest
from processes import kill_after
from small_runs import log_of
from warm_runs import OPTIONS, run_main, start_main

import main
from checkpoints import store
from results import trackers


def why_not_tensorboard():
    try:
        importlib.import_module(trackers.MODULES["tensorboard"])
    except Exception as error:  # of versions that do not go together
        return "tensorboard is not installed, or not for this torch (python -m pip install tensorboard): %s" % error
    return ""


needs_tensorboard = pytest.mark.skipif(bool(why_not_tensorboard()), reason=why_not_tensorboard() or "it is installed")


def words_for(images, folder, *more):
    return ["--data-path=" + images, "--output-dir=" + str(folder), "--epochs=3", *OPTIONS, *more]


def events_of(folder):
    """{tag: [(step, value)]} of a run's event files, as TensorBoard shows them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(os.path.join(str(folder), "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def options_in_tensorboard(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams import plugin_data_pb2

    events = EventAccumulator(os.path.join(str(folder), "tensorboard"))
    events.Reload()
    content = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    values = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info.hparams
    return {name: getattr(value, value.WhichOneof("kind")) for name, value in values.items()}


def assert_each_epoch_once(folder, epochs):
    rows, events = log_of(folder), events_of(folder)
    assert [row.pop("epoch") for row in rows] == list(range(epochs))
    assert set(events) == set(rows[0]) and "train_loss" in events and "ema_acc1" in events
    for tag, values in events.items():
        assert [step for step, _ in values] == list(range(epochs)), tag
        assert [value for _, value in values] == pytest.approx([row[tag] for row in rows], rel=1e-6), tag


@needs_tensorboard
def test_a_killed_run_has_each_epoch_once(tmp_path, images):
    out = tmp_path / "out"
    words = words_for(images, out, "--tracker=tensorboard", "--epochs=4", "--checkpoint-steps=1")
    for times in (8, 9):
        kill_after(start_main(words), str(out / store.LATEST), times)
    status, _, err = run_main(words)
    assert status == 0, err
    assert_each_epoch_once(out, 4)
    assert len(list((out / "tensorboard").glob("events*"))) >= 2
    options = options_in_tensorboard(out)
    assert (options["epochs"], options["model"], options["lr"]) == (4, "smlpnet_tiny", 0.1)


@needs_tensorboard
def test_the_first_rank_writes_what_came_before_the_option_too(tmp_path, images):
    """A tracker that a resumed run begins with gets the epochs before, from one process of two."""
    out = tmp_path / "out"
    assert run_main(words_for(images, out, "--epochs=2"), 2)[0] == 0
    assert not (out / "tensorboard").exists()
    status, _, err = run_main(words_for(images, out, "--tracker=tensorboard"), 2)
    assert status == 0, err
    assert len(list((out / "tensorboard").glob("events*"))) == 1
    assert_each_epoch_once(out, 3)


@needs_tensorboard
def test_it_changes_no_weights_and_needs_no_new_folder(tmp_path, images):
    """--tracker is none of the options that tell one run from another."""
    out = tmp_path / "out"
    words = words_for(images, out, "--existing-output=match")
    assert run_main(words)[0] == 0
    status, text, err = run_main(words + ["--tracker=tensorboard"])
    assert status == 0 and "renamed" not in text, err
    assert [path.name for path in tmp_path.glob("out*")] == ["out"]
    assert_each_epoch_once(out, 3)


@pytest.mark.parametrize("name", trackers.NAMES)
def test_a_missing_package_is_told_before_anything_is_made(tmp_path, images, small, monkeypatch, capsys, name):
    monkeypatch.setitem(sys.modules, trackers.MODULES[name], None)
    assert main.main(words_for(images, tmp_path / "out", "--tracker=" + name)) == 2
    err = capsys.readouterr().err
    assert err.startswith("main.py: error: --tracker %s: the package is not installed" % name)
    assert "pip install %s " % name in err and len(err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_an_output_folder_is_needed(images, small, capsys):
    assert main.main(["--data-path=" + images, "--tracker=tensorboard,wandb", *OPTIONS]) == 2
    assert "--tracker tensorboard,wandb needs --output-dir" in capsys.readouterr().err


def test_without_training_it_has_no_effect(tmp_path, images, small, capsys):
    assert main.main(words_for(images, tmp_path / "out", "--tracker=wandb", "--throughput", "--batch-size=2")) == 0
    assert "--tracker has no effect: nothing is trained" in capsys.readouterr().out
    assert not (tmp_path / "out" / "wandb").exists()


class Failing:
    """A tracker that fails at `place`: "open", "close", or the epoch 1."""

    is_immediate, place, logged = True, None, []

    def __init__(self, *_):
        self.fail_at("open")

    def log(self, row):
        self.fail_at(row["epoch"])
        self.logged.append(row["epoch"])

    def close(self):
        self.fail_at("close")

    def fail_at(self, place):
        if place == self.place:
            raise OSError("no\nspace left")


@pytest.mark.parametrize("place, logged", [("open", []), (1, [0]), ("close", [0, 1, 2])])
def test_a_tracker_that_fails_is_switched_off(tmp_path, images, small, monkeypatch, place, logged):
    kind = type("Failing", (Failing,), {"place": place, "logged": []})
    monkeypatch.setitem(trackers.KINDS, "tensorboard", kind)
    monkeypatch.setattr(trackers, "check", lambda *_: None)
    assert main.main(words_for(images, tmp_path / "out", "--tracker=tensorboard")) == 0
    assert kind.logged == logged
    text = (tmp_path / "out" / "train_0.log").read_text()
    assert text.count("--tracker tensorboard failed and is switched off; the run continues: no space left") == 1
    assert [row["epoch"] for row in log_of(tmp_path / "out")] == [0, 1, 2]


class StandInRun:
    def __init__(self, call):
        self.call, self.rows, self.ended = call, [], False

    def log(self, data, step=None):
        self.rows.append((step, data))

    def finish(self):
        self.ended = True


def stand_in_wandb(runs):
    """A module with the calls of wandb that trackers.py uses, as its documentation has them."""

    def init(*, dir=None, mode=None, project=None, name=None, id=None, resume=None, config=None, settings=None):
        runs.append(StandInRun(dict(dir=dir, mode=mode, project=project, name=name, id=id, config=config)))
        return runs[-1]

    module = types.ModuleType("wandb")
    module.init, module.Settings = init, lambda console=None, silent=None: (console, silent)
    return module


def stand_in_swanlab(runs):
    """A module with the calls of swanlab that trackers.py uses."""

    def init(project=None, experiment_name=None, logdir=None, mode=None, id=None, resume=None, config=None):
        runs.append(
            StandInRun(dict(dir=logdir, mode=mode, project=project, name=experiment_name, id=id, config=config))
        )
        return runs[-1]

    module = types.ModuleType("swanlab")
    module.init = init
    module.log = lambda data, step=None: runs[-1].log(data, step)
    module.finish = lambda: runs[-1].finish()
    return module


STAND_INS = {"wandb": stand_in_wandb, "swanlab": stand_in_swanlab}


@pytest.mark.parametrize("name", STAND_INS)
def test_stand_ins(tmp_path, images, small, monkeypatch, name):
    """What is called, and that a resumed run keeps its name there and logs no epoch twice."""
    runs, out = [], tmp_path / "out"
    monkeypatch.setitem(sys.modules, name, STAND_INS[name](runs))
    assert main.main(words_for(images, out, "--tracker=" + name, "--epochs=2")) == 0
    assert main.main(words_for(images, out, "--tracker=" + name)) == 0
    first, second = runs
    assert first.call["id"] == second.call["id"] and first.ended and second.ended
    assert first.call["mode"] == "offline" and first.call["name"] == "out"
    assert first.call["dir"] == str(out if name == "wandb" else out / "swanlab")
    assert first.call["config"]["epochs"] == 2 and first.call["config"]["lr"] == 0.1
    rows = log_of(out)
    assert [(row.pop("epoch"), row) for row in rows] == first.rows + second.rows


@pytest.mark.parametrize("name", STAND_INS)
def test_a_killed_run_logs_again_what_a_buffer_may_have_lost(tmp_path, images, small, monkeypatch, name):
    runs, out = [], tmp_path / "out"
    monkeypatch.setitem(sys.modules, name, STAND_INS[name](runs))
    assert main.main(words_for(images, out, "--tracker=" + name, "--epochs=1")) == 0
    path = out / name / trackers.STATE
    after_the_first = path.read_text()
    assert main.main(words_for(images, out, "--tracker=" + name, "--epochs=2")) == 0
    path.write_text(after_the_first)  # as a run leaves it that is killed before it closes the tracker
    assert main.main(words_for(images, out, "--tracker=" + name)) == 0
    assert [[step for step, _ in run.rows] for run in runs] == [[0], [1], [1, 2]]
    assert len({run.call["id"] for run in runs}) == 1


@pytest.mark.parametrize("name, variable", [("wandb", "WANDB_MODE"), ("swanlab", "SWANLAB_MODE")])
def test_the_users_mode_wins(tmp_path, images, small, monkeypatch, name, variable):
    runs = []
    monkeypatch.setitem(sys.modules, name, STAND_INS[name](runs))
    monkeypatch.setenv(variable, "disabled")
    assert main.main(words_for(images, tmp_path / "out", "--tracker=" + name, "--epochs=1")) == 0
    assert runs[0].call["mode"] is None  # the package reads the variable itself


def records_of(path):
    """The records of a file in LevelDB's log format, after its header of 7 bytes."""
    with open(str(path), "rb") as file:
        data = file.read()
    place, whole = 7, b""
    while place + 7 <= len(data):
        left = 32768 - place % 32768
        if left < 7:
            place += left
            continue
        _, length, kind = struct.unpack("<IHB", data[place : place + 7])
        whole += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield whole
            whole = b""


def wandb_rows(folder):
    """[(step, {name: value})] of a run's offline files."""
    from wandb.proto import wandb_internal_pb2

    rows = []
    for path in sorted((folder / "wandb").glob("offline-run-*/*.wandb")):
        for record in map(wandb_internal_pb2.Record.FromString, records_of(path)):
            if record.WhichOneof("record_type") == "history":
                items = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
                rows.append((items.pop("_step"), {key: items[key] for key in items if not key.startswith("_")}))
    return rows


def stop_and_resume(images, out, name):
    """A run with the tracker `name` that ends after two epochs and is resumed for a third."""
    for epochs in ("--epochs=2", "--epochs=3"):
        status, _, err = run_main(words_for(images, out, "--tracker=" + name, epochs))
        assert status == 0, err


@pytest.mark.skipif(not importlib.util.find_spec("wandb"), reason="wandb is not installed")
def test_wandb_offline(tmp_path, images):
    out = tmp_path / "out"
    stop_and_resume(images, out, "wandb")
    rows = log_of(out)
    assert wandb_rows(out) == [(row.pop("epoch"), pytest.approx(row)) for row in rows]
    assert len({path.name for path in (out / "wandb").glob("offline-run-*/*.wandb")}) == 1  # named by the run


@pytest.mark.skipif(not importlib.util.find_spec("swanlab"), reason="swanlab is not installed")
def test_swanlab_offline(tmp_path, images):
    out = tmp_path / "out"
    stop_and_resume(images, out, "swanlab")
    files = list((out / "swanlab").glob("run-*/*.swanlab"))
    assert len(files) == 2 and len({path.name for path in files}) == 1
    counts = [sum(record.count(b"train_loss_median") for record in records_of(path)) for path in sorted(files)]
    assert counts[0] > counts[1] > 0
