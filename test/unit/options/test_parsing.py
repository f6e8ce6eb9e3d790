"""Options: names and defaults of the published code, configuration files, and clear refusals."""

import math
import os
import re

import pytest
from command_lines import parse
from paths import ROOT
from recipe import golden

from options import config_files, parsing
from runtime.errors import UserError

# Published defaults that are faults or machine paths: REFERENCE's drop path never reached a model, and so on.
OTHER_DEFAULT = {"drop_path", "data_path", "device", "dist_eval", "num_workers", "local_rank"}
PUBLISHED = [option for option in golden("cli_args")["ascend_main_py"] if option["flags"]]
VALUES = {"int": "2", "float": "0.5", "str": "x"}
CHOICES = {
    "data_set": "IMNET",
    "device": "cpu",
    "remode": "const",
    "mixup_mode": "elem",
    "distillation_type": "none",
    "train_interpolation": "random",
    "inat_category": "name",
    "sched": "step",
    "stem_type": "conv4",
}


def words_for(option, flag):
    if option["action"] in ("StoreTrue", "StoreFalse"):
        return [flag]
    value = CHOICES.get(option["dest"], VALUES.get(option.get("type", "str")))
    return [flag, "0.2", "0.8"] if option["dest"] == "cutmix_minmax" else [flag, value]


@pytest.mark.parametrize("option", PUBLISHED, ids=lambda option: option["flags"][0])
@pytest.mark.parametrize("spelling", ["-", "_"])
def test_published_options(option, spelling):
    for flag in option["flags"]:
        flag = "--" + flag[2:].replace("-", spelling).replace("_", spelling)
        options = parse(*words_for(option, flag))
        assert hasattr(options, "device" if option["dest"] == "npu" else option["dest"])


def test_published_defaults():
    defaults = parse()
    for option in PUBLISHED:
        if option["dest"] not in OTHER_DEFAULT and option["dest"] != "npu":
            assert getattr(defaults, option["dest"]) == option["default"], option["dest"]


def test_npu_is_a_device():
    assert parse("--npu").device == "npu"
    assert parse("--npu", "--device", "cpu").device == "cpu"


def test_options_are_frozen():
    with pytest.raises(AttributeError, match="frozen"):
        parse().lr = 1.0


@pytest.mark.parametrize(
    "words, message",
    [
        (["--batch-size=0"], "--batch-size: must be at least 1 and at most 1000000, got 0"),
        (["--batch-size=x"], "--batch-size: 'x' is not an integer"),
        (["--batch-size=7"], "--batch-size 7: mixup and cutmix pair images"),
        (["--lr=nan"], "--lr: 'nan' is not a finite number"),
        (["--lr=-1"], "--lr: must be at least 0"),
        (["--epochs=0"], "--epochs: must be at least 1"),
        (["--epochs"], "--epochs: expected one argument"),
        (["--drop=1.5"], "--drop: must be at least 0 and at most 1, got 1.5"),
        (["--input-size=-32"], "--input-size: must be at least 1"),
        (["--device=tpu"], "--device: invalid choice"),
        (["--sched=plateau"], "--sched plateau is not supported"),
        (["--data-set=CIFAR"], "--data-set CIFAR: only IMNET"),
        (["--opt-betas", "0.9", "1"], "--opt-betas must be below 1"),
        (["--cutmix-minmax", "0.9", "0.1"], "--cutmix-minmax: 0.9 is more than 0.1"),
        (["--seed=" + "9" * 400], "--seed: must be at least 0 and at most"),
        (["--batch-size=1", "--mixup=0", "--cutmix=0", "--input-size=32"], "--batch-size 1: at 32 pixels"),
        (["--eval-json=/nowhere/x.json"], "--eval-json /nowhere/x.json: its folder does not exist"),
        (["--epoch=3"], "unknown option --epoch=3; did you mean --epochs"),
        (["--nonsense"], "unknown option --nonsense"),
    ],
)
def test_refusals(words, message):
    with pytest.raises(UserError) as caught:
        parse(*words)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_data_path_is_needed():
    with pytest.raises(UserError, match="--data-path is missing"):
        parsing.parse([])


def test_odd_batch_without_mixing():
    assert parse("--batch-size=7", "--mixup=0", "--cutmix=0").batch_size == 7
    assert parse("--batch-size=7", "--eval").batch_size == 7


def write(folder, text, name="options.yaml"):
    path = os.path.join(str(folder), name)
    with open(path, "w") as file:
        file.write(text)
    return path


def test_config_file(tmp_path):
    path = write(
        tmp_path, "lr: 1e-3\nbatch-size: 64\nmodel_ema: false\nopt_betas: [0.8, 0.9]\nclip_grad: null\naa: ''\n"
    )
    options = parse("--config", path, "--batch_size", "32")
    assert (options.lr, options.batch_size, options.model_ema, options.opt_betas) == (1e-3, 32, False, [0.8, 0.9])
    assert options.clip_grad is None and options.aa == ""
    assert parse("--config=" + path, "--model-ema").model_ema


def test_later_config_file_wins(tmp_path):
    first = write(tmp_path, "epochs: 300\nbatch_size: 112\nmodel_ema: false", "first.yaml")
    second = write(tmp_path, "epochs: 8\nmodel_ema: true", "second.yaml")
    options = parse("--config", first, "--config", second)
    assert (options.epochs, options.batch_size, options.model_ema) == (8, 112, True)
    first = write(tmp_path, "clip_grad: 1.0\ndeterministic: true", "first.yaml")
    second = write(tmp_path, "clip_grad: null\ndeterministic: false", "second.yaml")
    options = parse("--config", first, "--config", second)
    assert (options.clip_grad, options.deterministic) == (None, False)


@pytest.mark.parametrize(
    "text, message",
    [
        ("epoch: 3", "unknown option epoch; did you mean epochs"),
        ("config: other.yaml", "unknown option config"),
        ("epochs: three", "--epochs: 'three' is not an integer"),
        ("epochs: [1, 2]", "epochs cannot be"),
        ("epochs:", "epochs has no value"),
        ("model_ema: 3", "model_ema must be true or false"),
        ("- a\n- b", "must hold lines of the form option: value"),
        ("a: [", "cannot be read"),
        ("!!python/object/apply:os.getcwd []", "cannot be read"),
    ],
)
def test_bad_config_files(tmp_path, text, message):
    path = write(tmp_path, text)
    with pytest.raises(UserError) as caught:
        parse("--config", path)
    assert message in str(caught.value) and path in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_config_file():
    with pytest.raises(UserError, match="--config nowhere.yaml cannot be read"):
        parse("--config", "nowhere.yaml")


@pytest.mark.parametrize("words", [[], ["--npu", "--no-model-ema", "--aa=", "--opt-betas", "0.9", "0.95", "--eval"]])
def test_written_config_reproduces_the_options(tmp_path, words):
    options = parse("--data-path=/some/where", "--seed=5", *words)
    again = parsing.parse(["--config", write(tmp_path, config_files.to_yaml(options))])
    before, after = options.as_dict(), again.as_dict()
    del before["config"], after["config"]
    assert before == after


def configs():
    folder = os.path.join(ROOT, "configs")
    return sorted(os.path.join(folder, name) for name in os.listdir(folder))


def test_the_digits_train_without_compiling():
    assert parse("--config=" + os.path.join(ROOT, "configs", "digits.yaml"), "--data-path=x").compile == "off"


@pytest.mark.parametrize("path", configs(), ids=os.path.basename)
def test_shipped_configs(path):
    assert parse("--config", path).model.startswith("smlpnet_")


def test_recipe_files_are_the_defaults():
    """What the recipe files write out is what an empty command line means, but for the model."""
    for path in configs():
        if os.path.basename(path) in ("smlpnet_tiny.yaml", "smlpnet_small.yaml", "smlpnet_base.yaml"):
            assert dict(parse("--config", path).as_dict(), config=None, model="smlpnet_tiny") == parse().as_dict()


def test_options_without_effect_are_reported():
    lines = parsing.warnings_of(parse("--resplit", "--patience-epochs=3", "--world_size=8"))
    assert [line.split()[0] for line in lines] == ["--resplit", "--patience-epochs", "--world-size"]
    assert parsing.warnings_of(parse()) == []


def test_identity_ignores_what_changes_nothing():
    def identity(*words):
        return parsing.identity(parse(*words).as_dict())

    assert identity("--num-workers=3", "--print-freq=1", "--checkpoint-steps=5", "--output-dir=x") == identity()
    for words in (["--lr=1"], ["--epochs=3"], ["--seed=1"], ["--amp=none"], ["--batch-size=2"]):
        assert identity(*words) != identity()
    assert all(not isinstance(value, float) or math.isfinite(value) for value in identity().values())
    older = {name: value for name, value in parse().as_dict().items() if name not in ("extensions", "exif_transpose")}
    assert parsing.identity(older) == identity() != identity("--exif-transpose") != identity("--extensions", ".gif")


def test_extensions_begin_with_a_dot(tmp_path):
    assert parse("--extensions", ".GIF", ".avif").extensions == [".gif", ".avif"]
    path = write(tmp_path, "extensions: [.gif, .heic]\nexif_transpose: true")
    assert (parse("--config", path).extensions, parse("--config", path).exif_transpose) == ([".gif", ".heic"], True)
    path = write(tmp_path, "extensions: null\nexif_transpose: null")
    assert (parse("--config", path).extensions, parse("--config", path).exif_transpose) == (None, None)
    for text, remedy in (
        ("gif", "'gif' is no extension, write .gif"),
        (".a/b", "'.a/b' is no extension, such as .gif"),
    ):
        with pytest.raises(UserError, match="--extensions: " + re.escape(remedy)):
            parse("--extensions", text)
