"""What happens to an output folder that holds a run already."""

import os

import pytest
import torch

from checkpoints import loading, store
from options import parsing
from results import folder as output_folder
from results import lock
from results.plan import make_plan
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
    plan = make_plan(options(str(tmp_path / "new")))
    assert plan.loaded is None and not plan.renames_folder


@pytest.mark.parametrize("mode", ["resume", "match"])
def test_same_options_are_resumed(folder, mode):
    plan = make_plan(options(folder, "--existing-output=" + mode, "--num-workers=3"))
    assert plan.loaded["epoch"] == 1 and not plan.renames_folder


def test_a_run_of_other_options_is_renamed_when_they_must_match(folder):
    for words in (["--epochs=5"], ["--seed=1"], ["--lr=1"]):
        plan = make_plan(options(folder, "--existing-output=match", *words))
        assert plan.loaded is None and plan.renames_folder
        assert make_plan(options(folder, *words)).loaded is not None


def test_rename_never_resumes(folder):
    plan = make_plan(options(folder, "--existing-output=rename"))
    assert plan.loaded is None and plan.renames_folder


def test_without_auto_resume_nothing_is_overwritten(folder):
    plan = make_plan(options(folder, "--no-auto-resume"))
    assert plan.loaded is None and plan.renames_folder


def test_explicit_resume_wins(folder, tmp_path):
    other = str(tmp_path / "other")
    os.makedirs(other)
    store.save({"model": {"w": torch.ones(1)}, "epoch": 7}, other, True)
    plan = make_plan(options(folder, "--resume=" + other))
    assert plan.loaded["epoch"] == 7 and plan.renames_folder
    output_folder.write_config(options(folder, "--resume=" + other))  # that run has begun here: resume it
    plan = make_plan(options(folder, "--resume=" + other))
    assert plan.loaded["epoch"] == 1 and not plan.renames_folder


def test_another_number_of_processes_is_another_run(folder):
    store.save({"model": {"w": torch.zeros(1)}, "epoch": 1, "world_size": 2}, folder, True)
    plan = make_plan(options(folder, "--existing-output=match"), world_size=1)
    assert plan.loaded is None and plan.renames_folder
    assert not make_plan(options(folder, "--existing-output=match"), world_size=2).renames_folder


@pytest.mark.parametrize("path", ["", "checkpoint.pth"])
def test_resuming_by_path_and_then_without(folder, path):
    chosen = options(folder, "--existing-output=match", "--resume=" + os.path.join(folder, path))
    assert not make_plan(chosen).renames_folder
    output_folder.write_config(chosen)
    assert not make_plan(options(folder, "--existing-output=match")).renames_folder


@pytest.mark.parametrize("mode", ["resume", "match"])
def test_the_folder_s_own_checkpoint_is_resumed(folder, mode):
    for path in (folder, os.path.join(folder, "checkpoint.pth")):
        plan = make_plan(options(folder, "--existing-output=" + mode, "--resume=" + path))
        assert plan.loaded["epoch"] == 1 and not plan.renames_folder


def test_resume_from_the_best_keeps_the_latest(folder):
    best = os.path.join(folder, "best.pth")
    store.save({"model": {"w": torch.zeros(1)}, "epoch": 2}, folder, False)
    for more in ([], ["--existing-output=match"], ["--existing-output=rename"], ["--no-auto-resume"]):
        chosen = options(folder, "--resume=" + best, *more)
        plan = make_plan(chosen)
        assert plan.loaded["epoch"] == 1 and plan.renames_folder
        with pytest.raises(UserError, match="--resume %s lies in --output-dir .* name another" % best):
            output_folder.check_plan(chosen, plan)


def test_the_best_comes_along_into_a_new_folder(folder, tmp_path):
    best = loading.load(os.path.join(folder, "best.pth"))
    chosen = options(str(tmp_path / "new"), "--resume=" + folder)
    plan = make_plan(chosen)
    output_folder.prepare(chosen, plan)
    lock.unlock()
    assert plan.has_best and loading.load(str(tmp_path / "new" / "best.pth")) == best


def test_without_a_best_the_next_epoch_is_the_best(folder, tmp_path):
    os.unlink(os.path.join(folder, "best.pth"))
    chosen = options(str(tmp_path / "new"), "--resume=" + folder)
    plan = make_plan(chosen)
    output_folder.prepare(chosen, plan)
    lock.unlock()
    assert not plan.has_best


def test_renaming_loses_nothing(folder):
    before = {name: os.stat(os.path.join(folder, name)).st_size for name in os.listdir(folder)}
    chosen = options(folder, "--existing-output=rename")
    output_folder.hold(chosen)
    message = output_folder.prepare(chosen, make_plan(chosen))
    renamed = [name for name in os.listdir(os.path.dirname(folder)) if name.startswith("out.")]
    assert len(renamed) == 1
    target = os.path.join(os.path.dirname(folder), renamed[0])
    after = {name: os.stat(os.path.join(target, name)).st_size for name in os.listdir(target)}
    after.pop(".lock")
    assert after == before
    assert "\n" not in message and "--resume=%s" % os.path.join(target, "checkpoint.pth") in message
    assert not store.checkpoints_in(folder)


def test_evaluation_does_not_rename_the_folder(folder):
    for words in (["--eval"], ["--throughput"], ["--eval", "--existing-output=rename"]):
        plan = make_plan(options(folder, *words))
        assert not plan.renames_folder
        assert plan.loaded["epoch"] == 1
    assert not os.path.exists(os.path.join(folder, ".lock"))


def test_folder_prefers_the_best_for_evaluation(folder):
    store.save({"model": {"w": torch.zeros(1)}, "epoch": 2}, folder, False)
    assert make_plan(options(folder, "--eval", "--resume=" + folder)).loaded["epoch"] == 1
    assert make_plan(options("elsewhere", "--resume=" + folder)).loaded["epoch"] == 2


def test_half_a_line_in_the_log_is_survived(tmp_path):
    path = tmp_path / "log.txt"
    path.write_text('{"epoch": 0}\n{"epoch": 1, "tr')
    for _ in range(2):
        append_missing_rows(str(path), [{"epoch": 0}, {"epoch": 1}, {"epoch": 2}])
    assert path.read_text().splitlines() == ['{"epoch": 0}', '{"epoch": 1, "tr', '{"epoch": 1}', '{"epoch": 2}']
