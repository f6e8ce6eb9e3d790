"""benchmarks/gpu.sh: parts that hang, crash or are killed; what is noted, judged and shown. No part measures here."""

import json
import math
import os
import sys
import time
import types

import pytest
import torch
from paths import ROOT
from processes import is_running, wait_for

if not hasattr(torch, "compile"):
    pytest.skip("the benchmarks need torch 2.1", allow_module_level=True)

from torch.autograd import DeviceType

from benchmarks import findings, gpu_numerics, gpu_part, gpu_plan, gpu_resume, gpu_speed, gpu_table, timed_parts
from benchmarks.findings import Findings
from benchmarks.timed_parts import TimedPart
from runtime.amp import NativePrecision
from runtime.device import Device

HANG = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(os.getpid(), child.pid, flush=True)
time.sleep(600)
"""
FIND_AND_DIE = """
import os, signal, sys
sys.path.insert(0, %r)
from benchmarks.findings import Findings
Findings(%r, "dies", "a card").note("speed", 12.5, "images/s")
os.kill(os.getpid(), signal.SIGKILL)
"""


def part(name, code="pass", seconds=60, **more):
    return TimedPart(name, seconds, [sys.executable, "-c", code], **more)


@pytest.fixture
def results(tmp_path):
    return str(tmp_path / "card.jsonl")


@pytest.fixture
def noted(results):
    """Findings of a part, and what of them is in the file."""
    found = Findings(results, "a part", "a card")
    found.read = lambda: findings.read(results)
    return found


def test_a_part_that_hangs_crashes_or_is_killed_costs_only_itself(results, tmp_path, capsys):
    parts = [
        part("hangs", HANG, seconds=2),
        part("crashes", "raise ValueError('the cause')"),
        part("dies", FIND_AND_DIE % (ROOT, results)),
        part("works", "print('hello')"),
    ]
    assert gpu_plan.run_plan(parts, 120, results) == 1
    statuses = {found["part"]: found["value"] for found in findings.read(results) if found["name"] == "outcome"}
    assert statuses == {
        "hangs": "stopped after its limit of 2 s",
        "crashes": "failed (exit status 1)",
        "dies": "killed by SIGKILL",
        "works": "done",
    }
    for pid in (tmp_path / "card.logs" / "hangs.log").read_text().split():
        wait_for(lambda pid=int(pid): not is_running(pid), 20)
    speeds = [found for found in findings.read(results) if found["name"] == "speed"]
    assert [(found["value"], found["unit"], found["card"]) for found in speeds] == [(12.5, "images/s", "a card")]
    before, _, summary = capsys.readouterr().out.partition("==== summary ====")
    assert "outcome: done" in before
    assert "dies: speed: 12.5 images/s" in summary
    assert "ValueError: the cause" in summary
    lines = [line.split()[0] for line in summary.splitlines()[-4:]]
    assert lines == ["hangs", "crashes", "dies", "works"]


def test_a_plan_whose_parts_are_done_succeeds(results):
    assert gpu_plan.run_plan([part("one"), part("two")], 60, results) == 0


def test_every_line_names_the_card_and_the_versions(results):
    gpu_plan.run_plan([part("dies", FIND_AND_DIE % (ROOT, results))], 60, results)
    lines = findings.read(results)
    assert len(lines) == 3
    for line in lines:
        assert set(line) == {"part", "name", "value", "unit", "card", "versions"}
        assert line["card"] == "a card"
        assert line["versions"]["torch"].startswith(torch.__version__.split("+")[0])


def test_a_part_for_which_no_budget_is_left_is_not_started(results, tmp_path):
    parts = [part("first", "import time; time.sleep(600)"), part("second", "open(%r, 'w')" % str(tmp_path / "made"))]
    started = time.monotonic()
    assert gpu_plan.run_plan(parts, timed_parts.LEAST_SECONDS + 1, results) == 1
    assert time.monotonic() - started < 60
    assert "second" in [found["part"] for found in findings.read(results) if "left out" in str(found["value"])]
    assert not (tmp_path / "made").exists()


def test_a_part_beside_delays_only_those_that_run_alone(tmp_path):
    parts = [
        part("beside", "import time; time.sleep(3)", runs_beside=True),
        part("next"),
        part("alone", runs_alone=True),
        part("last"),
    ]
    outcomes = list(timed_parts.run_parts(parts, 60, lambda name: str(tmp_path / name)))
    assert [outcome.part for outcome in outcomes] == ["next", "beside", "alone", "last"]
    assert all(outcome.is_done for outcome in outcomes)
    assert outcomes[1].seconds >= 3


def test_the_time_of_a_part_beside_ends_with_it(tmp_path):
    parts = [part("beside", runs_beside=True), part("next", "import time; time.sleep(3)")]
    outcomes = {
        outcome.part: outcome for outcome in timed_parts.run_parts(parts, 60, lambda name: str(tmp_path / name))
    }
    assert outcomes["beside"].seconds < outcomes["next"].seconds


def test_a_plan_that_is_ended_kills_what_runs(tmp_path):
    parts = [part("beside", HANG, runs_beside=True), part("next", "import time; time.sleep(1)"), part("last")]
    running = timed_parts.run_parts(parts, 60, lambda name: str(tmp_path / name))
    assert next(running).part == "next"
    wait_for(lambda: len((tmp_path / "beside").read_text().split()) == 2, 20)
    running.close()
    for pid in (tmp_path / "beside").read_text().split():
        wait_for(lambda pid=int(pid): not is_running(pid), 20)


def test_the_parts_fit_into_eight_minutes():
    own = [part.seconds for part in gpu_plan.PARTS if not part.runs_beside]
    assert sum(own[:-2]) <= gpu_plan.BUDGET == 480  # the last two use what others leave


def test_a_limit_that_is_not_met_fails_its_part(noted):
    noted.note("error", 1e-6, at_most=1e-5)
    noted.note("speed", 3000, "images/s", at_least=3600, is_required=False)
    assert not noted.fails
    noted.note("error", math.nan, at_most=1e-5)
    assert noted.fails
    assert [line["is_met"] for line in noted.read()] == [True, False, False]


def test_what_has_to_hold_and_does_not_fails_its_part(noted):
    noted.check("same", True)
    assert not noted.fails
    noted.check("same", False)
    assert noted.fails


def test_a_line_that_was_cut_short_is_left_out(noted, results):
    noted.note("one", 1)
    with open(results, "a") as file:
        file.write('{"part": "a pa')
    assert [line["name"] for line in noted.read()] == ["one"]


@pytest.mark.parametrize(
    "work, status",
    [
        (lambda setting: setting.findings.note("error", 2.0, at_most=3.0), 0),
        (lambda setting: setting.findings.note("error", 4.0, at_most=3.0), 1),
        (lambda setting: __import__("a_package_that_is_not_there"), timed_parts.LACKS_PACKAGE),
    ],
)
def test_the_exit_status_of_a_part(monkeypatch, results, work, status):
    module = types.ModuleType("benchmarks.stand_in")
    module.measure = work
    monkeypatch.setitem(sys.modules, "benchmarks.stand_in", module)
    assert gpu_part.main(["name", "stand_in", "--device=cpu", "--results", results]) == status
    (line,) = findings.read(results)
    assert line["card"] == "cpu"
    assert line["value"] == ("a_package_that_is_not_there" if status == timed_parts.LACKS_PACKAGE else line["value"])


def test_the_table_shows_values_and_limits(noted):
    noted.note("a|b", 12345.678, "images/s", at_least=3600, is_required=False)
    noted.note("error", 2e-6, at_most=1e-5)
    noted.check("same", False)
    lines = gpu_table.table(noted.read()).splitlines()
    assert lines[0].startswith("a card; python ")
    assert lines[4:] == [
        "| a part | a\\|b | 12,346 images/s | at least 3,600: met |",
        "| a part | error | 2e-06 | at most 1e-05 (required): met |",
        "| a part | same | no | required: NOT MET |",
    ]


def missing_tables(folder, text):
    """Return the results files in the folder whose table is not in the text."""
    names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    paths = [os.path.join(folder, name) for name in names if name.endswith(".jsonl")]
    return [path for path in paths if gpu_table.table(findings.read(path)) not in text]


def test_the_document_holds_the_table_of_each_results_file(noted, results):
    with open(os.path.join(ROOT, "docs", "MEASUREMENTS.md"), encoding="utf-8") as file:
        text = file.read()
    assert missing_tables(os.path.join(ROOT, "benchmarks", "results"), text) == []
    noted.note("speed", 1234.5)
    assert missing_tables(os.path.dirname(results), text) == [results]
    assert missing_tables(os.path.dirname(results), text + gpu_table.table(noted.read()) + "more") == []


def test_the_table_is_printed(noted, results, capsys):
    noted.note("speed", 1234.5)
    capsys.readouterr()
    assert gpu_table.main([results]) == 0
    assert capsys.readouterr().out == gpu_table.table(noted.read())
    assert gpu_table.main([results + ".not"]) == 2


def event(name, kind, microseconds, is_annotation=False):
    span = types.SimpleNamespace(elapsed_us=lambda: microseconds)
    own = dict(device_type=kind, is_user_annotation=is_annotation, self_cpu_time_total=microseconds / 2)
    return types.SimpleNamespace(name=name, time_range=span, **own)


def test_a_profile_on_a_card_counts_kernels_once():
    events = [
        event("aten::mm", DeviceType.CPU, 900.0),
        event("gemm", DeviceType.CUDA, 3000.0),
        event("gemm", DeviceType.CUDA, 5000.0),
        event("Optimizer.step", DeviceType.CUDA, 8000.0, is_annotation=True),
    ]
    assert gpu_speed.kernel_times(events, True) == ({"gemm": 8.0}, {"gemm": 2})
    assert gpu_speed.kernel_times(events, False) == ({"aten::mm": 0.45}, {"aten::mm": 1})


def rounded_to_tf32(tensor):
    return (tensor.view(torch.int32) + 2**12 & ~(2**13 - 1)).view(torch.float32)


def test_convolutions_in_tf32_are_noticed(monkeypatch, noted):
    conv2d = torch.nn.functional.conv2d

    def convolved(image, kernel):
        if image.dtype == torch.float32:
            image, kernel = rounded_to_tf32(image), rounded_to_tf32(kernel)
        return conv2d(image, kernel)

    gpu_numerics._check_float32(Device("cpu"), noted)
    assert not noted.fails
    monkeypatch.setattr(gpu_numerics, "functional", types.SimpleNamespace(conv2d=convolved))
    gpu_numerics._check_float32(Device("cpu"), noted)
    assert [line["is_met"] for line in noted.read()] == [True, True, False, True]


@pytest.mark.parametrize("skips", [True, False], ids=["skips", "steps"])
def test_a_step_that_overflows_has_to_leave_the_weights(noted, skips):
    precision, model = NativePrecision(Device("cpu"), "float16"), torch.nn.Linear(8, 8)
    optimizer = torch.optim.AdamW(model.parameters())

    def step():
        with precision.autocast():
            loss = model(torch.ones(4, 8)).float().square().mean()
        optimizer.zero_grad()
        precision.scaler.scale(loss).backward()
        precision.scaler.step(optimizer)
        if not skips and precision.scaler._found_inf_per_device(optimizer)[torch.device("cpu")].item():
            optimizer.step()
        precision.scaler.update()

    scale = gpu_numerics._overflow(noted, "ours", step, model, optimizer, precision.scaler)
    assert scale == 2.0**39
    assert noted.fails is not skips


@pytest.mark.parametrize("is_same", [True, False])
def test_other_bits_after_resuming_are_noticed(monkeypatch, noted, tmp_path, is_same):
    def trained(command):
        folder = command[-1].partition("=")[2]
        os.makedirs(folder)
        value = 1.0 if is_same or folder.endswith("whole") else 1.0 + 2**-20
        states = {name: {"a": torch.tensor([value])} for name in ("model", "model_ema")}
        torch.save(states, os.path.join(folder, "checkpoint.pth"))
        return 0

    monkeypatch.setattr(gpu_resume.subprocess, "call", trained)
    monkeypatch.setattr(gpu_resume, "_kill_within_epoch", lambda command: True)
    gpu_resume.compare_runs(noted, [], str(tmp_path / "runs"))
    assert noted.fails is not is_same
    last = noted.read()[-1]
    assert (last["name"], last["value"]) == ("model_ema: tensors that differ, of 1", int(not is_same))
    assert json.dumps(last)
