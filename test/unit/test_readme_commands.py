"""Every command of the READMEs and of most docs is executed here or by another test, or TABLE gives the reason why not.

A new command needs a line in TABLE: its key, which the failing test prints, and how it is tested. In the remaining
documents only the files and options of commands are checked.
"""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest
import torch
from readme_commands import (
    EXECUTED,
    READMES,
    ROOT,
    assert_known,
    assert_launcher_knows,
    blocks_of,
    commands_of,
    run_program,
)

from checkpoints import store
from options import parsing
from tools.make_digits import write_digits

SMALL = ["--epochs=1", "--warmup-epochs=0", "--input-size=32", "--batch-size=20", "--num-workers=0", "--device=cpu"]
COMMANDS = [command for document in EXECUTED for command in commands_of(document)]
DOCS = ["docs/" + name for name in sorted(os.listdir(os.path.join(ROOT, "docs"))) if name.endswith(".md")]
PARSED = [name for name in [*DOCS, "CONTRIBUTING.md", "test/README.md"] if name not in EXECUTED]


def executed(*more, module=None):
    """Executed here, on a few digits, with the words `more` appended; skipped if `module` is missing."""
    return ("executed", list(more), module)


def covered(test):
    """Executed by the test `path::function` with other values."""
    return ("covered", test)


def left_out(reason):
    """Not executed."""
    return ("left out", reason)


WRAPPERS = "test/system/test_wrappers.py::"
FINETUNE = "python main.py --data-path --output-dir --finetune --input-size --epochs --warmup-epochs --lr --layer-decay"
ATC = "atc --framework --model --output --input-format --input-shape "
EXPORT = "python export_onnx.py FILE FILE"
SRUN = "srun --nodes --ntasks-per-node --gpus-per-node --cpus-per-task "
TABLE = {
    "bash test/quickstart.sh": left_out("minutes: trains and evaluates 6 epochs"),
    "python3 -m venv FILE": left_out("the interpreter that runs this test stands for it"),
    "source FILE": left_out("the interpreter that runs this test stands for it"),
    "bash test/train_full_1p.sh --data-path": executed(*SMALL, "--output_dir=output/wrapper"),
    "bash test/train_full_8p.sh --data-path": covered(WRAPPERS + "test_full_8p_resume_eval"),
    "bash test/train_performance_1p.sh --data-path": covered(WRAPPERS + "test_performance_1p_from_test_folder"),
    "bash test/train_performance_8p.sh --data-path": covered(WRAPPERS + "test_performance_always_starts_afresh"),
    "bash test/train_eval_8p.sh --data-path --resume": covered(WRAPPERS + "test_full_8p_resume_eval"),
    "bash test/train_eval_8p.sh --data-path --resume --no-model-ema": executed(
        *SMALL[2:], "--nproc=1", "--output_dir=output/eval"
    ),
    "NNODES= NODE_RANK= MASTER_ADDR= bash test/train_multinode.sh --data-path --output-dir": covered(
        "test/system/test_multinode.py::test_two_machines"
    ),
    "sbatch test/slurm/train.sbatch --data-path --output-dir": covered(
        "test/system/test_slurm.py::test_a_job_stops_in_time_is_queued_again_and_resumes"
    ),
    "python main.py --data-path --output-dir": executed(*SMALL),
    "python main.py --data-path --class-weights --best-by --output-dir": executed(*SMALL),
    "python main.py --data-path --balanced-sampling --best-by --output-dir": executed(*SMALL),
    "export FILE FILE FILE": left_out("the reader's own keys"),
    "python main.py --data-path --data-cache --data-cache-gb --output-dir": covered(
        "test/system/test_object_storage.py::test_a_run_gives_the_bits_of_a_local_one"
    ),
    FINETUNE: executed(*SMALL[:2], *SMALL[3:], "--input-size=64", "--output-dir=output/finetuned"),
    "torchrun --nproc-per-node main.py --config --data-path --output-dir": covered(
        "test/system/test_ranks.py::test_torch_launchers"
    ),
    SRUN + "python main.py --data-path --output-dir --num-workers": covered("test/system/test_ranks.py::test_slurm"),
    "python tools/convert.py FILE FILE": executed(module="safetensors"),
    "pip install -r 1.5_requirements.txt": left_out("needs a network; run_tests.sh --stack 1.5 does it"),
    "pip install -r 1.8_requirements.txt": left_out("needs a network; run_tests.sh --stack 1.8 does it"),
    "pip install -r requirements.txt": left_out("needs a network; run_tests.sh does it where a package is missing"),
    "pip install -r requirements.txt matplotlib onnx onnxruntime onnxscript": left_out("needs a network"),
    "python tools/split_data.py photos FILE": executed(),
    "python tools/split_data.py photos FILE --list": executed(),
    "python tools/split_data.py FILE FILE --list --group-column": covered(
        "test/unit/tools/test_split_lists.py::test_a_group_is_in_one_part"
    ),
    "python tools/check_data.py FILE --input-size": executed(),
    "python tools/check_data.py FILE --json": executed(),
    "python main.py --config --data-path --output-dir --per-class": executed(*SMALL),
    "python main.py --data-path --output-dir --dry-run": executed(*SMALL),
    "python main.py --data-path --output-dir --tracker": executed(*SMALL, "--epochs=2", module="tensorboard"),
    "bash test/train_eval_8p.sh --data-path --resume --per-class": executed(
        *SMALL[2:], "--nproc=1", "--output_dir=output/eval"
    ),
    "python predict.py FILE FILE --top": executed(),
    "python predict.py FILE FILE FILE --top": executed(),
    "python predict.py FILE FILE FILE FILE FILE --json > FILE": covered(
        "test/unit/commands/test_named_images.py::test_predictions_of_archives_are_those_of_the_files"
    ),
    "python predict.py FILE FILE --csv --plot > FILE": executed(module="matplotlib"),
    "python tools/report.py FILE": executed(module="matplotlib"),
    "python tools/report.py FILE FILE --output": executed(module="matplotlib"),
    "find FILE -name FILE -print0 | python predict.py FILE - --csv > FILE": left_out("a pipe: test_predict.py has it"),
    "python predict.py FILE folder --json --plot --device --batch-size --num-workers": executed(
        "--device=cpu", "--num-workers=0", "--force", module="matplotlib"
    ),
    EXPORT + " --with-preprocess --softmax": covered("test/unit/checkpoints/test_export.py::test_onnx"),
    EXPORT + " --opset --softmax": covered(
        "test/unit/checkpoints/test_export.py::test_the_programs_of_the_documentation"
    ),
    EXPORT + " --format --with-preprocess --softmax": executed(module="onnxruntime"),
    EXPORT: executed(module="safetensors"),
    EXPORT + " --int8 --calibration-data": covered(
        "test/unit/benchmarks/test_gain.py::test_int8_is_written_and_predicts_nearly_the_same"
    ),
    ATC + "--soc-version": left_out("needs CANN"),
    ATC + "--dynamic-batch-size --soc-version": left_out("needs CANN"),
    "cd FILE": left_out("the reader's own folder"),
}
ONLY_IN_CHINESE = {
    "pip install -r 1.5_requirements.txt",  # README.md has a table of them
    "pip install -r 1.8_requirements.txt",
    "pip install -r requirements.txt",
    "cd FILE",
}


def test_every_command_has_its_line():
    missing = ["%s: %s\n    %r: ..." % (one.document, one.line, one.key) for one in COMMANDS if one.key not in TABLE]
    assert not missing, "add to TABLE:\n" + "\n".join(missing)
    assert len(COMMANDS) > 20
    assert set(TABLE) == {one.key for one in COMMANDS}, "no document has these commands of TABLE"


def test_both_readmes_hold_the_same_commands():
    english, chinese = ({one.key for one in COMMANDS if one.document == readme} for readme in READMES)
    assert english - chinese == set()
    assert chinese - english == ONLY_IN_CHINESE


def test_every_line_of_the_table_is_true():
    for key, (how, what, *_) in TABLE.items():
        if how == "covered":
            path, function = what.split("::")
            with open(os.path.join(ROOT, path), encoding="utf-8") as file:
                text = file.read()
            assert "def %s(" % function in text, what
            program = next(word for word in key.split() if word.endswith((".sh", ".sbatch", ".py")))
            name = os.path.basename(program)
            assert name in text or "small_main.py" in text, "%s does not start %s" % (what, name)


@pytest.fixture
def stand_in(tmp_path):
    """An interpreter for the wrappers that writes its arguments to a file."""
    path = tmp_path / "python"
    words = tmp_path / "words"
    code = "import json, sys; open(%r, 'a').write(json.dumps(sys.argv[1:]) + '\\n')" % str(words)
    path.write_text('#!/bin/sh\nexec "%s" -S -c "%s" "$@"\n' % (sys.executable, code.replace("\\", "\\\\")))
    path.chmod(0o755)

    def run(command):
        environ = dict(os.environ, PYTHON=str(path), **dict(word.split("=", 1) for word in command.variables))
        done = subprocess.run(command.words, cwd=ROOT, env=environ, stderr=subprocess.PIPE, text=True)
        assert done.returncode == 0, done.stderr
        with open(str(words)) as file:
            return [json.loads(line) for line in file]

    return run


def name_of(command):
    return "%s-%s" % (command.document, command.key)


@pytest.mark.parametrize("command", COMMANDS + [one for path in PARSED for one in commands_of(path)], ids=name_of)
def test_its_files_and_options_exist(command, stand_in, monkeypatch):
    monkeypatch.chdir(ROOT)
    if command.program is None:
        return
    path, words = command.program[1], command.arguments
    assert os.path.exists(path), path
    if path.startswith("test/train_") and path.endswith(".sh"):
        launched = [line for line in stand_in(command) if any(word.endswith("launch.py") for word in line)]
        started = [line for line in launched if "--check" not in line]
        assert len(started) == 1
        words = started[0]
        words, path = words[[word.endswith("main.py") for word in words].index(True) + 1 :], "main.py"
    if path == "main.py" or path.endswith(".sbatch"):
        parsing.parse(words)
    elif path == "benchmark.py" and not hasattr(torch, "compile"):
        pytest.skip("the benchmarks need torch 2.1")
    elif path.endswith(".py"):
        assert_known(path, words)
    if command.words[0] == "torchrun":
        assert_launcher_knows(command.words[1 : command.program[0]])


@pytest.fixture(scope="module")
def workshop(tmp_path_factory):
    """A folder with a few digits, and the photos and checkpoints that the commands name."""
    folder = tmp_path_factory.mktemp("workshop")
    write_digits(str(folder / "all"))

    def copy_digits(origin, target, count):
        for digit in os.listdir(str(folder / origin)):
            (folder / target / digit).mkdir(parents=True)
            for name in sorted(os.listdir(str(folder / origin / digit)))[:count]:
                shutil.copy(str(folder / origin / digit / name), str(folder / target / digit / name))

    copy_digits("all/train", "digits/train", 2)
    copy_digits("all/val", "digits/val", 1)
    copy_digits("all/train", "photos", 5)
    (folder / "photos" / "0").rename(folder / "photos" / "cat")
    copy_digits("all/val", "folder/of/images", 1)
    shutil.copy(str(next((folder / "photos" / "cat").iterdir())), str(folder / "photo.jpg"))
    (folder / "configs").symlink_to(os.path.join(ROOT, "configs"))
    first = str(folder / "test" / "output" / "0")
    assert run_program("main.py", ["--data-path=" + str(folder / "digits"), "--output-dir=" + first, *SMALL])[0] == 0
    for name in ("smlpnet_tiny.pth", "port.pth", "best.pth"):
        shutil.copy(os.path.join(first, store.LATEST), str(folder / name))
    return folder


def executed_commands():
    """Return the commands to execute: each key where it occurs first."""
    first = {}
    for command in COMMANDS:
        first.setdefault(command.key, command)
    return [one for one in first.values() if TABLE.get(one.key, [None])[0] == "executed"]


def run(command, words):
    """Run it; return (exit status, stdout and stderr)."""
    path = command.program[1]
    if command.words[0] == "python":
        return run_program(path, words)
    done = subprocess.run(
        ["bash", os.path.join(ROOT, path), *words],
        env=dict(os.environ, PYTHON=sys.executable),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return done.returncode, done.stdout


@pytest.mark.parametrize("command", executed_commands(), ids=lambda command: command.line[:60])
def test_it_works(command, workshop, monkeypatch, capfd):
    """In the order of the documents; the files that a command names are in the workshop, or written by those before."""
    _, more, module = TABLE[command.key]
    if module:
        pytest.importorskip(module, reason="NOT CHECKED: %s is missing" % module)
    monkeypatch.chdir(str(workshop))
    words = [re.sub(r"^(--data[-_]path=)?/data/.*", r"\1digits", word) for word in command.arguments] + more
    status, text = run(command, words)
    assert status == 0, text + capfd.readouterr().err
    for word in words:
        if re.match("--output[-_]dir=", word) and "eval" not in word and "--dry-run" not in words:
            assert os.path.exists(os.path.join(word.partition("=")[2], store.LATEST))


@pytest.mark.skipif(not hasattr(torch, "compile"), reason="written for timm 1")
@pytest.mark.parametrize("document", [*READMES, "docs/CHECKPOINTS.md"])
def test_its_python_works(document, workshop, monkeypatch):
    monkeypatch.chdir(str(workshop))
    programs = [text for language, text in blocks_of(document) if language == "python"]
    assert programs
    for text in programs:
        text = text.replace('"output/photos"', '"test/output/0"').replace('hub.load("."', "hub.load(%r" % ROOT)
        exec(compile(re.sub(r'"\w\.jpg"', '"photo.jpg"', text), document, "exec"), {})
