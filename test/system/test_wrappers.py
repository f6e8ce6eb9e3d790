"""The wrappers' contract: options, outputs, names, lines, exit statuses."""

import json
import os
import re
import shutil
import signal

import pytest
from processes import wait_for
from warm_runs import OPTIONS, current_torch
from wrappers import run_wrapper, start_wrapper

from checkpoints import loading

TRAIN_KEYS = ["Network", "RankSize", "BatchSize", "DeviceType", "CaseName", "AvgFPS", "MinLoss", "MaxAccuracy"]
TRAIN_KEYS += ["E2ETrainingTime", "ActualFPS", "ActualLoss", "TrainAccuracy", "TrainingTime"]
SMALL = [word for word in OPTIONS if not word.startswith("--batch-size")]


def output_of(project, name="0"):
    return os.path.join(project, "test", "output", name)


def read_case(project, case):
    with open(os.path.join(output_of(project), case + ".log")) as file:
        return dict(line.rstrip("\n").split(" = ") for line in file)


def renamed_runs(project):
    return [name for name in os.listdir(os.path.join(project, "test", "output")) if name != "0"]


def snapshot(folder):
    return {name: os.stat(os.path.join(folder, name)).st_mtime_ns for name in os.listdir(folder)}


def test_performance_1p_from_test_folder(project, images):
    words = ["--data_path=" + images] + SMALL
    status, out, err = run_wrapper(project, "train_performance_1p.sh", words, cwd=os.path.join(project, "test"))
    assert status == 0, err
    case = "SPACH-SMLP_bs24_1p_perf"  # 24 images are less than the batch of 112
    row = read_case(project, case)
    assert list(row) == TRAIN_KEYS
    assert (row["RankSize"], row["BatchSize"], row["CaseName"]) == ("1", "24", case)
    with open(os.path.join(output_of(project), "summary.json")) as file:
        summary = json.load(file)
    assert summary["epochs_done"] == 1
    assert float(row["AvgFPS"]) == pytest.approx(summary["images_per_second"], abs=0.01)
    lines = out.splitlines()[-5:]
    assert lines[0] == "------------------ Final result ------------------"
    assert lines[1] == "Final Performance FPS : " + row["AvgFPS"]
    assert lines[2] == "Final Performance images/sec : " + row["ActualFPS"]
    assert lines[3] == "Final Train Accuracy : " + row["TrainAccuracy"]
    assert re.fullmatch(r"E2E Training Duration sec : \d+", lines[4])
    assert "--batch-size 112 is more than an epoch holds: 24 is used" in out


def test_full_8p_resume_eval(project, images):
    """Two processes from a relative path; again, finished; other options rename the run; then evaluation."""
    here = os.path.dirname(project)
    words = ["--data_path", os.path.relpath(images, here), "--nproc=2", "--epochs", "2", "--batch_size=4"] + SMALL
    status, out, err = run_wrapper(project, "train_full_8p.sh", words, cwd=here)
    assert status == 0, err
    assert read_case(project, "SPACH-SMLP_bs4_2p_acc")["RankSize"] == "2"
    files = {"checkpoint.pth", "checkpoint.previous.pth", "best.pth", "train_0.log", "log.txt", "summary.json"}
    assert set(os.listdir(output_of(project))) >= files | {"config.yaml", "SPACH-SMLP_bs4_2p_acc.log"}

    status, out, err = run_wrapper(project, "train_full_8p.sh", words, cwd=here)
    assert status == 0 and "from " + output_of(project) in out and not renamed_runs(project), err

    status, out, err = run_wrapper(project, "train_full_8p.sh", words + ["--seed=3"], cwd=here)
    assert status == 0 and len(renamed_runs(project)) == 1, err
    renamed = output_of(project, renamed_runs(project)[0])
    assert re.fullmatch(r"0\.\d{8}-\d{6}", renamed_runs(project)[0])
    reported = [line for line in out.splitlines() if "renamed to " + renamed in line]
    assert len(reported) == 1 and "--resume=" + os.path.join(renamed, "checkpoint.pth") in reported[0]

    before, renamed_before = snapshot(output_of(project)), snapshot(renamed)
    eval_words = ["--data_path=" + images, "--nproc=2", "--batch-size=4"] + SMALL
    for resume in (os.path.join(output_of(project), "best.pth"), output_of(project)):
        status, out, err = run_wrapper(project, "train_eval_8p.sh", eval_words + ["--resume=" + resume], cwd=project)
        assert status == 0, err
    after = snapshot(output_of(project))
    assert set(after) - set(before) == {"eval_0.log", "SPACH-SMLP_bs4_2p_eval.log"}
    assert {name: after[name] for name in before} == before and snapshot(renamed) == renamed_before
    row = read_case(project, "SPACH-SMLP_bs4_2p_eval")
    assert {"Network", "RankSize", "BatchSize", "DeviceType", "CaseName", "ActualAccuracy", "E2EEvalTime"} <= set(row)
    assert re.search(r"^Acc@1 %s on 10 images" % row["ActualAccuracy"], out, re.M)


def test_failures_are_failures(project, images):
    status, out, err = run_wrapper(project, "train_full_1p.sh", SMALL)
    assert status == 1 and err.startswith("[Error] ") and "data_path" in err
    status, out, err = run_wrapper(project, "train_full_1p.sh", ["--data_pth=" + images] + SMALL)
    assert status == 2 and "unknown option --data-pth" in err and "did you mean --data-path?" in err
    status, out, err = run_wrapper(project, "train_full_1p.sh", ["--data_path=" + images + "x"] + SMALL)
    assert status == 2 and "no such folder" in err and "Final" not in out
    status, out, err = run_wrapper(project, "train_eval_8p.sh", ["--data_path=" + images] + SMALL)
    assert status == 1 and "--resume" in err
    status, out, err = run_wrapper(project, "train_full_1p.sh", ["--data_path=" + images, "--throughput"])
    assert status == 2 and "--throughput trains nothing" in err and not out
    status, out, err = run_wrapper(project, "train_full_8p.sh", ["--data_path=" + images, "--nproc=x"])
    assert status == 2 and "--nproc" in err
    with open(os.path.join(images, "val", "dog", "00.png"), "wb") as file:
        file.write(b"broken")
    words = ["--data_path=" + images, "--resume=", "--nproc=2", "--epochs=1", "--batch-size=4"]
    status, out, err = run_wrapper(project, "train_full_8p.sh", words + SMALL)
    assert status == 2 and "unreadable image: " in err and "Traceback" not in err and "Final" not in out, err


@current_torch
def test_paths_are_only_paths(project, images, tmp_path):
    """Shell syntax, quotes, spaces and a leading dash in the paths of data, output and checkpoint do nothing."""
    here = tmp_path / "here"
    here.mkdir()
    name = "-n $(touch pwned) `touch pwned`; touch pwned & 'q' \"d\" *\\ \n%s{0}"
    shutil.copytree(images, str(here / name))
    words = ["--data_path=" + name, "--nproc=1", "--epochs=1", "--batch_size=4"] + SMALL
    status, out, err = run_wrapper(project, "train_full_8p.sh", words + ["--output_dir=%s.out" % name], cwd=str(here))
    assert status == 0, err
    assert "SPACH-SMLP_bs4_1p_acc.log" in os.listdir(str(here / (name + ".out")))
    status, out, err = run_wrapper(
        project, "train_eval_8p.sh", words[:2] + SMALL + ["--resume", name + ".out", "--batch-size=4"], cwd=str(here)
    )
    assert status == 0, err
    assert sorted(os.listdir(str(here))) == sorted([name, name + ".out"])


@current_torch
@pytest.mark.parametrize("name, status", [("SIGTERM", 143), ("SIGINT", 130)])
def test_a_signal_to_a_wrapper_saves_before_it_ends(project, images, name, status):
    words = ["--data_path=" + images, "--epochs=100", "--batch-size=4", "--nproc=2"] + SMALL
    process = start_wrapper(project, "train_full_8p.sh", words)
    wait_for(lambda: os.path.exists(os.path.join(output_of(project), "checkpoint.pth")))
    process.send_signal(getattr(signal, name))
    out, err = process.communicate(timeout=300)
    assert process.returncode == status, err
    assert (
        "stopped by %s; run the same command again to resume" % name in err
        and "Traceback" not in err
        and "Final" not in out
    )
    assert loading.load(os.path.join(output_of(project), "checkpoint.pth"))["step"] > 0


def test_performance_always_starts_afresh(project, images):
    words = ["--data_path=" + images, "--epochs=1", "--batch-size=4", "--nproc=1"] + SMALL
    for runs in (0, 1):
        status, out, err = run_wrapper(project, "train_performance_8p.sh", words)
        assert status == 0 and len(renamed_runs(project)) == runs, err
        assert "start         from random weights" in out
