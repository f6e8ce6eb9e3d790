"""The completion of options, in real shells."""

import shutil
import subprocess
import sys

import pytest
from paths import ROOT

import main
import models
from commands import completion
from runtime.errors import UserError


@pytest.fixture(scope="module")
def scripts(tmp_path_factory):
    """{shell: the path of its script}, as main.py prints them."""
    pytest.importorskip("shtab", reason="shtab is not installed (python -m pip install shtab)")
    folder, paths = tmp_path_factory.mktemp("completion"), {}
    for shell in ("bash", "zsh"):
        paths[shell] = str(folder / shell)
        with open(paths[shell], "w") as file:
            assert main.main(["--print-completion", shell]) == 0
            file.write(completion.script(shell))
    return paths


BASH = """
source "$1"
shift
function=$1
shift
COMP_WORDS=("$@")
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
COMPREPLY=()
"$function"
printf '%s\\n' "${COMPREPLY[@]}"
"""


def candidates(scripts, line, cwd=ROOT):
    """What bash would offer at the end of `line`, which it takes apart at blanks and at `=`."""
    words = line.replace("=", " = ").split(" ")
    words = [word for number, word in enumerate(words) if word or number == len(words) - 1]
    if line.endswith("="):
        words.pop()
    function = "_main_py_itself" if words[0] == "main.py" else "_main_py_below"
    command = ["bash", "--norc", "-c", BASH, "bash", scripts["bash"], function] + words
    done = subprocess.run(command, cwd=str(cwd), capture_output=True, timeout=300)
    assert done.returncode == 0 and not done.stderr, done.stderr
    return done.stdout.decode().split("\n")[:-1]


@pytest.mark.parametrize(
    "line, found",
    [
        ("main.py --hfl", ["--hflip"]),
        ("python main.py --hfl", ["--hflip"]),
        ("python3 -u some/where/main.py --lr 1 --skip_bad", ["--skip-bad-images"]),
        ("torchrun --nproc_per_node=8 main.py --skip", ["--skip-bad-images"]),
        ("python main.py --mixup-mode ", ["batch", "pair", "elem"]),
        ("python main.py --mixup-mode=", ["batch", "pair", "elem"]),
        ("python main.py --mixup_mode=p", ["pair"]),
        ("python main.py --seed=3 --data-set=IN", ["INAT", "INAT19"]),
        ("python main.py --model=smlpnet_", ["smlpnet_tiny", "smlpnet_small", "smlpnet_base"]),
        ("python main.py --eval --model ", list(models.MODEL_NAMES)),
        ("python main.py --tracker ", ["tensorboard", "wandb", "swanlab"]),
        ("python other.py --hfl", [""]),
    ],
)
def test_bash(scripts, line, found):
    assert candidates(scripts, line) == found


def test_bash_offers_every_option_that_help_shows(scripts):
    shown = subprocess.run([sys.executable, "main.py", "--help"], cwd=ROOT, stdout=subprocess.PIPE).stdout.decode()
    words = {word.strip(",[]").split("=")[0] for word in shown.split("image classifier.")[1].split()}
    offered = candidates(scripts, "python main.py -")
    assert len(offered) > 90 and "--world-size" not in offered
    assert {word for word in offered if word.startswith("--")} <= words


def test_bash_offers_files(scripts, tmp_path):
    for name in ("a folder", "a.pth", "b.pth"):
        (tmp_path / name).mkdir() if name == "a folder" else (tmp_path / name).write_text("")
    assert sorted(candidates(scripts, "python main.py --resume a", tmp_path)) == ["a folder", "a.pth"]
    assert candidates(scripts, "python main.py --resume=b", tmp_path) == ["b.pth"]
    assert candidates(scripts, "python main.py --output-dir=", tmp_path) == ["a folder"]
    assert candidates(scripts, "python main.py --image-root ", tmp_path) == ["a folder"]
    for option in ("--train-data=", "--val-data=", "--train_data "):
        assert sorted(candidates(scripts, "python main.py %sa" % option, tmp_path)) == ["a folder", "a.pth"]


ZSH = r"""
zmodload zsh/zpty
zpty shell zsh -f -i
zpty -w shell 'PS1= ; autoload -U compinit; compinit -u -D'
zpty -w shell 'eval "$(cat '${(q)1}')"; bindkey "^I" list-choices; LISTMAX=999; echo re""ady'
zpty -r shell before '*ready*'
zpty -w -n shell "$2"$'\t'
sleep 1
zpty -w -n shell $'\C-u'"echo do''ne"$'\n'
zpty -r shell shown '*done*'
print -r -- "$shown"
"""


@pytest.mark.skipif(not shutil.which("zsh"), reason="zsh is not installed")
@pytest.mark.parametrize(
    "line, found, lacks",
    [
        ("python main.py --skip", ["--skip-bad-images"], []),
        ("python main.py --mixup-mode=", ["batch", "pair", "elem"], ["bicubic"]),
        ("python main.py --seed 3 --model smlpnet_", ["smlpnet_tiny", "smlpnet_base"], ["spach"]),
    ],
)
def test_zsh(scripts, line, found, lacks):
    command = ["zsh", "-f", "-c", ZSH, "zsh", scripts["zsh"], line]
    shown = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, timeout=300).stdout.decode(errors="replace")
    for word in found:
        assert word in shown.replace(line, ""), shown
    for word in lacks:
        assert word not in shown, shown


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "shtab", None)
    with pytest.raises(
        UserError, match="^--print-completion zsh: the package shtab is not installed: pip install shtab$"
    ):
        completion.script("zsh")
