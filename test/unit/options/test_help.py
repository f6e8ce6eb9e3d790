"""The help of each option, and the suggestion for a misspelt option or value."""

import argparse
import re

import pytest
import torch
from command_lines import parse

import benchmark
import main
from options import parsing
from runtime.errors import UserError

PARSER = parsing.build_parser()
VISIBLE = [action for action in PARSER._actions if action.help != argparse.SUPPRESS and action.dest != "help"]
NAMES = [action.option_strings[0] for action in VISIBLE]
OPPOSITES = [name for name in NAMES if name.startswith("--no-")]
# The default in words, where it is not a value of the option.
IN_WORDS = {
    "--npu": "off",
    "--drop-path": "the model's own",
    "--token-layout": "the checkpoint's, else permute",
    "--finetune": "random weights",
    "--index-cache": "--output-dir",
    "--data-cache": "nowhere, they are read anew",
    "--extensions": "the checkpoint's, else none",
    "--exif-transpose": "the checkpoint's, else off",
    "--scale": "0.08 1",
    "--ratio": "0.75 1.33",
    "--num-workers": "its processor cores, at most 64",
    "--opt-betas": "the optimizer's",
    "--clip-grad": "no clipping",
    "--teacher-path": "none, distillation needs it",
    "--amp-dtype": "the device's",
    "--virtual-ranks": "one a process",
    "--output-dir": "nothing is saved",
    "--eval-json": "nowhere",
    "--train-data": "what --data-path holds",
    "--val-data": "what --data-path holds",
    "--image-root": "the list's",
}
# What the help must name, by metavar: what the number counts or measures.
UNITS = {"IMAGES": "images", "EPOCHS": "epochs", "EPOCH": "epoch", "STEPS": "steps", "SECONDS": "seconds"}
UNITS.update(
    PIXELS="side", P="probability", RATE="probability|decay", FRACTION="fraction", LR="rate|batch of 512 images"
)
UNITS.update(EXTENSION="files", NORM="norm", ALPHA="beta distribution", BETA="decay rates")
WITHOUT_UNIT = {"X": "fraction|factor|times|added|deviation|temperature|limit|momentum|decay|weight"}
UNITS["GB"] = "gigabytes"
WITHOUT_UNIT.update(N="processes|batches|boxes|seed")


def action_of(name):
    return next(action for action in VISIBLE if name in action.option_strings)


def default_in_help(action):
    return re.search(r"\(default: (.+)\)$", action.help).group(1)


def test_help_marks_what_is_required():
    assert [name for name in NAMES if action_of(name).help.endswith("(required)")] == ["--data-path"]


@pytest.mark.parametrize("name", [name for name in NAMES if name not in [*OPPOSITES, "--data-path"]])
def test_help_gives_the_default(name):
    action = action_of(name)
    default = default_in_help(action)
    if name in IN_WORDS:
        assert default == IN_WORDS[name] and (not action.default or name == "--npu")
    elif action.nargs == 0:
        assert default == ("on" if action.default else "off")
    elif action.default in (None, ""):
        assert default == "none"
    elif action.type is None:
        assert default == action.default
    else:
        values = [action.type(word.rstrip(",")) for word in default.split() if word != "never"]
        assert values == (action.default if isinstance(action.default, list) else [action.default])


@pytest.mark.parametrize("name", [action.option_strings[0] for action in VISIBLE if action.type is not None])
def test_help_names_the_unit_of_a_number(name):
    action = action_of(name)
    metavar = "FRACTION" if isinstance(action.metavar, tuple) else action.metavar
    assert re.search(dict(UNITS, **WITHOUT_UNIT)[metavar], action.help), (metavar, action.help)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in OPPOSITES])
def test_help_explains_an_option(name):
    assert len(action_of(name).help.split("(default")[0].split()) >= 2


@pytest.mark.parametrize("name", OPPOSITES)
def test_help_of_opposites(name):
    assert action_of(name).help == "turn --%s off" % name[5:]
    assert "--" + name[5:] in NAMES


def test_every_option_is_in_a_named_group(capsys):
    with pytest.raises(SystemExit) as end:
        main.main(["--help"])
    assert not end.value.code
    text = capsys.readouterr().out
    titles = re.findall(r"^(\w[^:\n]*):$", text, re.MULTILINE)
    assert titles[1:] == [
        "model",
        "data",
        "augmentation",
        "skewed classes",
        "optimizer",
        "learning rate",
        "distillation",
        "device, precision and processes",
        "run",
    ]
    for name in NAMES:
        assert re.search(r"^  (--\S+ .*, )?%s\b" % name, text.split("\nmodel:")[1], re.MULTILINE), name


def misspelt(name):
    """`name` without a letter in its middle, with two exchanged."""
    middle = (len(name) + 2) // 2
    swapped = name[:middle] + name[middle + 1] + name[middle] + name[middle + 2 :] if middle + 1 < len(name) else name
    return [word for word in (name[:middle] + name[middle + 1 :], swapped) if word not in NAMES and word != "--"]


@pytest.mark.parametrize("name", NAMES)
def test_the_nearest_option_is_named(name):
    """Another option may be as near: what counts is that the right one or its opposite is named."""
    for word in misspelt(name):
        with pytest.raises(UserError, match="^unknown option %s; did you mean --" % word) as caught:
            parse(word)
        if len(name) > 8:
            near = str(caught.value).split("did you mean ")[1].rstrip("?")
            assert near in (name, name.replace("--no-", "--"), "--no-" + name[2:]), near


@pytest.mark.parametrize(
    "words, message",
    [
        (
            ["--mixup-mode=bach"],
            "--mixup-mode: invalid choice: 'bach' (choose from batch, pair, elem); did you mean batch?",
        ),
        (["--device=cdua"], "--device: invalid choice: 'cdua' (choose from auto, npu, cuda, cpu); did you mean cuda?"),
        (["--device=x"], "--device: invalid choice: 'x' (choose from auto, npu, cuda, cpu)"),
    ],
)
def test_the_nearest_choice_is_named(words, message):
    with pytest.raises(UserError) as caught:
        parse(*words)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "words, message",
    [
        (["--model=smlpnet_tinny"], "--model smlpnet_tinny is unknown; --list-models prints them all; did you "
         "mean smlpnet_tiny?"),
        (["--tracker=tensorbord", "--output-dir=x"], "--tracker tensorbord is unknown: choose from tensorboard, wandb, "
         "swanlab; did you mean tensorboard?"),
        (["--hlfip=1"], "unknown option --hlfip=1; did you mean --hflip?"),
    ],
)  # fmt: skip
def test_main_reports_it_in_one_line(words, message, small, capsys):
    assert small(*words) == 2
    assert capsys.readouterr().err == "main.py: error: %s\n" % message


@pytest.mark.skipif(not hasattr(torch, "compile"), reason="the benchmarks need torch 2.1 or newer")
@pytest.mark.parametrize(
    "words, message",
    [
        (["stpe"], "did you mean step?"),
        (["data", "--roudns=3"], "unknown option --roudns=3; did you mean --rounds?"),
        (["step", "--mdoe=train"], "unknown option --mdoe=train; did you mean --mode?"),
        (["step", "--mode=trian"], "did you mean train?"),
    ],
)
def test_benchmark_names_the_nearest(words, message, capsys):
    assert benchmark.main(words) == 2
    assert capsys.readouterr().err.endswith(message + "\n")
