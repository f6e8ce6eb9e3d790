"""test/slurm/train.sbatch, as far as it can be tested without Slurm.

Stand-ins on the PATH take the place of srun and scontrol, and `Job` that of sbatch and slurmd. They set the variables
that Slurm's manual pages name: SLURM_JOB_ID, SLURM_JOB_NODELIST, SLURM_SUBMIT_DIR, SLURM_NNODES, SLURM_NTASKS,
SLURM_NTASKS_PER_NODE and SLURM_CPUS_PER_TASK for the script; SLURM_PROCID, SLURM_LOCALID, SLURM_NODEID, SLURM_STEP_ID
and SLURM_STEP_NODELIST for a task. All tasks of the two nodes run on this machine.
"""

import os
import re
import shutil
import signal
import subprocess
import sys

import pytest
from image_folders import write_images
from paths import ROOT
from processes import clean_environment, wait_for, with_default_signals
from small_runs import assert_same_weights
from warm_runs import OPTIONS, current_torch, run_main

from checkpoints import store

SCRIPT = os.path.join("test", "slurm", "train.sbatch")
SRUN = """#!%s
# Starts the tasks, and ends with the highest of their exit statuses, as srun does.
import os, subprocess, sys
words = sys.argv[1:]
options = [words.pop(0) for word in list(words) if words[0].startswith("--")]
assert sorted(options) == ["--cpus-per-task=1", "--kill-on-bad-exit=0"], options
tasks = []
for rank in range(int(os.environ["SLURM_NTASKS"])):
    node, local = divmod(rank, int(os.environ["SLURM_NTASKS_PER_NODE"]))
    environ = dict(os.environ, SLURM_PROCID=str(rank), SLURM_LOCALID=str(local), SLURM_NODEID=str(node))
    environ.update(SLURM_STEP_ID="0", SLURM_STEP_NODELIST=os.environ["SLURM_JOB_NODELIST"])
    tasks.append(subprocess.Popen(words, env=environ))
with open(os.environ["TASKS_FILE"], "w") as file:
    file.write(" ".join(str(task.pid) for task in tasks))
sys.exit(max(status if status >= 0 else 128 - status for status in [task.wait() for task in tasks]))
"""
SCONTROL = """#!/usr/bin/env bash
case "$*" in
    "show hostnames node[1-2]") printf 'localhost\\nlocalhost\\n' ;;
    "requeue "*) echo "$2" >>"$REQUEUED_FILE" ;;
    *) exit 1 ;;
esac
"""


class Job:
    """A submitted job: a copy of the script, run in the folder of submission with the job's variables."""

    def __init__(self, project, folder, words, python, **environ):
        stand_ins, self.requeued = os.path.join(folder, "bin"), os.path.join(folder, "requeued")
        self.tasks_file = os.path.join(folder, "tasks")
        os.makedirs(stand_ins, exist_ok=True)
        for name, text in (("srun", SRUN % sys.executable), ("scontrol", SCONTROL)):
            with open(os.path.join(stand_ins, name), "w") as file:
                file.write(text)
            os.chmod(file.name, 0o755)
        copy = os.path.join(folder, "slurm_script")
        shutil.copy(os.path.join(project, SCRIPT), copy)
        self.number = str(os.getpid())
        environ.update(PATH=stand_ins + os.pathsep + os.environ["PATH"], PYTHON=python, REAL_PYTHON=sys.executable)
        environ.update(TASKS_FILE=self.tasks_file, REQUEUED_FILE=self.requeued, OMP_NUM_THREADS="1")
        environ.update(SLURM_JOB_ID=self.number, SLURM_SUBMIT_DIR=project, SLURM_JOB_NODELIST="node[1-2]")
        environ.update(SLURM_NNODES="2", SLURM_NTASKS="2", SLURM_NTASKS_PER_NODE="1", SLURM_CPUS_PER_TASK="1")
        self.process = subprocess.Popen(
            ["bash", copy, *words],
            cwd=project,
            env=clean_environment(**environ),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            universal_newlines=True,
            preexec_fn=with_default_signals,
        )

    def signal_tasks(self, number):
        """Send the signal to the tasks and not to the script, like --signal without a B:."""
        with open(self.tasks_file) as file:
            for word in file.read().split():
                os.kill(int(word), number)

    def end(self):
        """Return (exit status, whether it is to be queued again, stdout, stderr)."""
        out, err = self.process.communicate(timeout=300)
        wanted = ""
        if os.path.exists(self.requeued):
            with open(self.requeued) as file:
                wanted = file.read()
            os.remove(self.requeued)
        assert wanted in ("", self.number + "\n")
        return self.process.returncode, bool(wanted), out, err


@current_torch
def test_a_job_stops_in_time_is_queued_again_and_resumes(project, tmp_path):
    data, out = write_images(str(tmp_path / "some images"), train=20), str(tmp_path / "the output")
    words = ["--data-path=" + data, "--epochs=3", "--checkpoint-steps=1", *OPTIONS, "--print-freq=2"]
    python = os.path.join(project, "test", "system", "small_python.sh")

    def submit():
        return Job(project, str(tmp_path), words + ["--output-dir=" + out], python, FAULT="slow:0.2")

    job = submit()
    wait_for(lambda: os.path.exists(os.path.join(out, store.LATEST)) or job.process.poll() is not None, 60)
    job.signal_tasks(signal.SIGUSR1)
    status, again, _, err = job.end()
    assert (status, again) == (138, True) and "stopped by SIGUSR1; run the same command again to resume" in err, err
    status, again, text, err = submit().end()
    assert (status, again) == (0, False), err
    assert "start         from " + os.path.join(out, store.LATEST) in text

    whole = str(tmp_path / "whole")
    config = "--config=" + os.path.join(ROOT, "configs", "smlpnet_tiny.yaml")
    status, _, err = run_main([config, *words, "--output-dir=" + whole], 2)
    assert status == 0, err
    assert_same_weights(out, whole)


@pytest.mark.parametrize("status", [0, 1, 2, 137, 138, 143])
def test_only_a_stop_in_time_is_queued_again(tmp_path, status):
    task = tmp_path / "task"
    task.write_text("#!/bin/sh\nexit %d\n" % status)
    task.chmod(0o755)
    job = Job(ROOT, str(tmp_path), ["--data-path=a b"], str(task))
    assert job.end()[:2] == (status, status == 138)


def test_what_the_script_asks_slurm_for():
    """Slurm reads no #SBATCH line after the first command."""
    with open(os.path.join(ROOT, SCRIPT)) as file:
        lines = file.read().splitlines()
    first_command = next(index for index, line in enumerate(lines) if line and not line.startswith("#"))
    asked = [line[8:] for line in lines[:first_command] if line.startswith("#SBATCH ")]
    assert sum(line.startswith("#SBATCH") for line in lines) == len(asked)
    assert {"--signal=USR1@120", "--requeue", "--open-mode=append"} < set(asked)
    assert all(re.fullmatch(r"--[a-z-]+(=\S+)?", line) for line in asked)
    assert subprocess.run(["bash", "-n", os.path.join(ROOT, SCRIPT)]).returncode == 0
