"""bash benchmarks/gpu.sh --device cpu: all parts of the plan, rehearsed without the packages that users may lack."""

import signal
import subprocess
import sys

import pytest
import torch
from paths import ROOT
from processes import clean_environment, processes_of_session, wait_for, with_default_signals

if not hasattr(torch, "compile"):
    pytest.skip("the benchmarks need torch 2.1", allow_module_level=True)

from benchmarks import findings, gpu_plan

OPTIONAL = ("simplejpeg", "cv2", "sklearn", "pyarrow", "pytest", "matplotlib", "onnx", "s3fs", "hypothesis")
BUDGET = 1800  # seconds: the limits of the parts grow with it, for a busy machine


@pytest.fixture
def start(tmp_path):
    """start(*options, lacking=names): gpu.sh as a process, with the results copied to tmp_path / "out"."""
    started = []

    def starter(*options, lacking=OPTIONAL):
        (tmp_path / "site").mkdir()
        (tmp_path / "site" / "sitecustomize.py").write_text(
            "import sys\nsys.modules.update(dict.fromkeys(%r))" % (lacking,)
        )
        (tmp_path / "out").mkdir()
        environ = clean_environment(
            PYTHONPATH=str(tmp_path / "site"), PYTHON=sys.executable, OUT=str(tmp_path / "out"), OMP_NUM_THREADS="1"
        )
        command = ["bash", "benchmarks/gpu.sh", "--device=cpu", "--budget=%d" % BUDGET, *options]
        started.append(
            subprocess.Popen(
                command,
                cwd=ROOT,
                env=environ,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                universal_newlines=True,
                start_new_session=True,
                preexec_fn=with_default_signals,
            )
        )
        return started[-1]

    yield starter
    for process in started:
        if process.poll() is None:  # the test has failed
            process.terminate()
            process.communicate()


def values(folder):
    """Return {(part, name): value} of the findings that were copied."""
    found = findings.read(str(folder / "out" / "cpu.jsonl"))
    return {(finding["part"], finding["name"]): finding["value"] for finding in found}


def test_the_whole_plan(start, tmp_path):
    process = start()
    out = process.communicate()[0]
    assert process.returncode == 0, out
    found = values(tmp_path)
    assert {part for part, name in found if name == "outcome"} == {part.name for part in gpu_plan.PARTS}
    assert out.splitlines()[-len(gpu_plan.PARTS) - 1 :][0] == "---- parts"
    assert found["numerics", "logits at 32 pixels, channels_last, float32, error"] < 1e-5
    assert found["resume", "killed after a checkpoint within an epoch"] == "yes"
    assert found["resume", "model: tensors that differ, of 188"] == 0
    for batch, part in ((2, "speed-small"), (3, "speed-large")):
        for mode in ("train", "eval"):
            assert found[part, "%s, batch %d, float32, eager" % (mode, batch)] > 0
    assert found["profile", "kernels of a step"] > 100
    assert found["loader", "exact loader alone"] > 0
    assert "simplejpeg" in found["loader", "fast loader"]
    assert found["resume-compiled", "undisturbed run"] == "not run: compiling takes minutes on a CPU"
    for part, name in (("numerics-fused", "logits"), ("resume-fused", "undisturbed run")):
        assert found[part, name] == "not run: the fused kernels need a CUDA device"
    assert "resume.log" in (tmp_path / "out" / "all.log").read_text()


def test_a_part_says_which_package_it_lacks(start, tmp_path):
    process = start("--parts", "facts", "profile", lacking=("timm",))
    out = process.communicate()[0]
    assert process.returncode == 1, out
    found = values(tmp_path)
    assert found["facts", "outcome"] == "done"
    assert found["profile", "outcome"] == "not run: a package is not installed"
    assert found["profile", "not run, since a package is not installed"] == "timm"


def test_a_plan_that_is_ended_prints_its_summary(start, tmp_path):
    process = start("--parts", "facts", "resume")
    wait_for(lambda: (tmp_path / "out" / "cpu.jsonl").exists() and ("facts", "outcome") in values(tmp_path))
    process.send_signal(signal.SIGTERM)
    out = process.communicate()[0]
    assert process.returncode == 130, out
    assert "facts: usable cores" in out.partition("==== summary ====")[2]
    wait_for(lambda: not processes_of_session(process.pid), 20)
