"""What happens to an output folder that holds a run already."""

import os

import pytest
import torch

from checkpoints import store
from options import parsing
from results import folder as output_folder
from runtime.errors import UserError
from utils import append_missing_rows


def options(folder, *words):
    return parsing.parse(["--data-path=data", "--output-dir=%s" % folder] + list(words))


@pytest.fixture
def folder(tmp_path):
    """A folder with a run of the default options."""
    path = str(tmp_path / "out")
    os.makedirs(path)
    output_folder.write_config(options(path))
    store.save({"model": {"w": torch.zeros(1)}, "epoch": 1}, path, True)
    return path


def test_fresh_folder(tmp_path):
    start = output_folder.plan(options(str(tmp_path / "new")))
    assert start.loaded is None and not start.sets_aside


@pytest.mark.parametrize("mode", ["resume", "match"])
def test_same_options_go_on(folder, mode):
    start = output_folder.plan(options(folder, "--existing-output=" + mode, "--num-workers=3"))
    assert start.loaded["epoch"] == 1 and not start.sets_aside


def test_other_options_are_set_aside_when_they_must_match(folder):
    for words in (["--epochs=5"], ["--seed=1"], ["--lr=1"]):
        start = output_folder.plan(options(folder, "--existing-output=match", *words))
        assert start.loaded is None and start.sets_aside
        assert output_folder.plan(options(folder, *words)).loaded is not None


def test_rename_never_goes_on(folder):
    start = output_folder.plan(options(folder, "--existing-output=rename"))
    assert start.loaded is None and start.sets_aside


def test_without_auto_resume_nothing_is_overwritten(folder):
    start = output_folder.plan(options(folder, "--no-auto-resume"))
    assert start.loaded is None and start.sets_aside


def test_explicit_resume_wins(folder, tmp_path):
    other = str(tmp_path / "other")
    os.makedirs(other)
    store.save({"model": {"w": torch.ones(1)}, "epoch": 7}, other, True)
    start = output_folder.plan(options(folder, "--resume=" + other))
    assert start.loaded["epoch"] == 7 and start.sets_aside
    output_folder.write_config(options(folder, "--resume=" + other))  # that run has begun here: go on with it
    start = output_folder.plan(options(folder, "--resume=" + other))
    assert start.loaded["epoch"] == 1 and not start.sets_aside


def test_another_number_of_processes_is_another_run(folder):
    store.save({"model": {"w": torch.zeros(1)}, "epoch": 1, "world_size": 2}, folder, True)
    start = output_folder.plan(options(folder, "--existing-output=match"), world_size=1)
    assert start.loaded is None and start.sets_aside
    assert not output_folder.plan(options(folder, "--existing-output=match"), world_size=2).sets_aside


@pytest.mark.parametrize("path", ["", "checkpoint.pth"])
def test_going_on_by_path_and_then_without(folder, path):
    chosen = options(folder, "--existing-output=match", "--resume=" + os.path.join(folder, path))
    assert not output_folder.plan(chosen).sets_aside
    output_folder.write_config(chosen)
    assert not output_folder.plan(options(folder, "--existing-output=match")).sets_aside


@pytest.mark.parametrize("mode", ["resume", "match"])
def test_resume_of_the_folder_s_own_checkpoint_goes_on(folder, mode):
    for path in (folder, os.path.join(folder, "checkpoint.pth")):
        start = output_folder.plan(options(folder, "--existing-output=" + mode, "--resume=" + path))
        assert start.loaded["epoch"] == 1 and not start.sets_aside


def test_resume_from_the_best_keeps_the_latest(folder):
    best = os.path.join(folder, "best.pth")
    store.save({"model": {"w": torch.zeros(1)}, "epoch": 2}, folder, False)
    start = output_folder.plan(options(folder, "--resume=" + best))
    assert start.loaded["epoch"] == 1 and start.sets_aside


def test_the_best_comes_along_into_a_new_folder(folder):
    best = store.load(os.path.join(folder, "best.pth"))
    chosen = options(folder, "--existing-output=rename", "--resume=" + folder)
    start = output_folder.plan(chosen)
    output_folder.prepare(chosen, start)
    output_folder.release()
    assert os.path.exists(start.path) and os.path.dirname(start.path).startswith(folder + ".")
    assert start.has_best and store.load(os.path.join(folder, "best.pth")) == best


def test_without_a_best_the_next_epoch_is_the_best(folder, tmp_path):
    os.unlink(os.path.join(folder, "best.pth"))
    chosen = options(str(tmp_path / "new"), "--resume=" + folder)
    start = output_folder.plan(chosen)
    output_folder.prepare(chosen, start)
    output_folder.release()
    assert not start.has_best


def test_setting_aside_loses_nothing(folder):
    before = {name: os.stat(os.path.join(folder, name)).st_size for name in os.listdir(folder)}
    chosen = options(folder, "--existing-output=rename")
    message = output_folder.prepare(chosen, output_folder.plan(chosen))
    renamed = [name for name in os.listdir(os.path.dirname(folder)) if name.startswith("out.")]
    assert len(renamed) == 1
    aside = os.path.join(os.path.dirname(folder), renamed[0])
    after = {name: os.stat(os.path.join(aside, name)).st_size for name in os.listdir(aside)}
    after.pop(".lock")
    assert after == before
    assert "\n" not in message and "--resume=%s" % os.path.join(aside, "checkpoint.pth") in message
    assert not store.find_latest(folder)


def test_evaluation_leaves_the_folder(folder):
    for words in (["--eval"], ["--throughput"], ["--eval", "--existing-output=rename"]):
        start = output_folder.plan(options(folder, *words))
        assert not start.sets_aside
        assert start.loaded["epoch"] == 1
    assert not os.path.exists(os.path.join(folder, ".lock"))


def test_folder_prefers_the_best_for_evaluation(folder):
    store.save({"model": {"w": torch.zeros(1)}, "epoch": 2}, folder, False)
    assert output_folder.plan(options(folder, "--eval", "--resume=" + folder)).loaded["epoch"] == 1
    assert output_folder.plan(options("elsewhere", "--resume=" + folder)).loaded["epoch"] == 2


def test_two_runs_do_not_share_a_folder(folder):
    output_folder._claim(folder)
    with pytest.raises(UserError, match="another run is writing there"):
        output_folder._claim(folder, patience_s=0)
    output_folder.release()
    output_folder._claim(folder, patience_s=0)
    output_folder.release()


def test_half_a_line_in_the_log_is_survived(tmp_path):
    path = tmp_path / "log.txt"
    path.write_text('{"epoch": 0}\n{"epoch": 1, "tr')
    for _ in range(2):
        append_missing_rows(str(path), [{"epoch": 0}, {"epoch": 1}, {"epoch": 2}])
    assert path.read_text().splitlines() == ['{"epoch": 0}', '{"epoch": 1, "tr', '{"epoch": 1}', '{"epoch": 2}']
