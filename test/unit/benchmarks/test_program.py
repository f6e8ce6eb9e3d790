"""benchmark.py program: whole programs in turn."""

import sys

import pytest
import torch

if not hasattr(torch, "compile"):
    pytest.skip("the benchmarks need torch 2.1", allow_module_level=True)

import benchmark
from benchmarks import program

SPIN = "import time; end = time.process_time() + 0.2\nwhile time.process_time() < end: pass"
WAIT = "import time; time.sleep(0.4)"


def python(code):
    return "%s -c '%s'" % (sys.executable, code)


@pytest.fixture
def folder(tmp_path):
    return "--data-path=%s" % tmp_path


def test_two_programs_take_turns_and_are_compared(folder, capsys):
    assert benchmark.main(["program", folder, "--rounds=2", "--peer", python(WAIT), "--ours", python(SPIN)]) == 0
    out = capsys.readouterr().out
    turns = [line.split(",")[0] for line in out.splitlines() if line.startswith("round")]
    assert turns == ["round 1: peer", "round 1: ours", "round 2: ours", "round 2: peer"]
    assert "peer     whole program" in out and "ours     page faults" in out


def test_what_a_program_takes_is_measured():
    spun, waited = (program.measure([sys.executable, "-c", code]) for code in (SPIN, WAIT))
    assert spun.user + spun.system > 0.19 and waited.wall > 0.39 and waited.user + waited.system < 0.19
    assert min(spun.user, spun.system, waited.user) > 0 and spun.faults > 100
    rows = program.rows_of({"peer": [program.Usage(4.0, 2.0, 1.0, 7)], "ours": [program.Usage(2.0, 4.0, 1.0, 9)]})
    assert [(row.setting, row.value, row.ratio) for row in rows[:2]] == [("peer", 4.0, 1.0), ("ours", 2.0, 2.0)]
    assert [row.value for row in rows[2:]] == [0.5, 7.0, 0.25, 9.0]


def test_a_command_gets_the_folder_of_the_images_and_no_shell_reads_it():
    words = program.words_of("--peer", "train {data}/train 'a b' $HOME", "/some where")
    assert words == ["train", "/some where/train", "a b", "$HOME"]


@pytest.mark.parametrize(
    "peer, status, message",
    [
        ("", 2, "--peer: it names no command"),
        ("'open", 2, "--peer: No closing quotation"),
        ("/no/such/program", 2, "/no/such/program: No such file or directory"),
        (python('raise SystemExit("out of order")'), 1, "failed: out of order"),
        (python("raise SystemExit(3)"), 1, "failed: it printed nothing"),
    ],
)
def test_a_command_that_cannot_run_is_an_error(folder, capsys, peer, status, message):
    assert benchmark.main(["program", folder, "--peer", peer]) == status
    assert message in capsys.readouterr().err
