"""--per-class gives the same numbers on any number of processes, and those that counting by hand gives."""

import json
import os

import pytest
import torch
from image_folders import write_noise
from PIL import Image
from small_models import create_small_model
from warm_runs import OPTIONS, run_main

import datasets
from checkpoints import loading
from options import parsing

VAL = {"<b>cat": 9, "dog": 5, "new\nline": 3}


def counted_by_hand(data, words, path):
    """The rows of the confusion matrix, each picture by itself."""
    names = sorted(VAL)
    options = parsing.parse(words)
    model = create_small_model("smlpnet_tiny", num_classes=3, image_size=32).eval()
    model.load_state_dict(loading.load(path)["model"])
    transform = datasets.build_transform(options, False)
    rows = [[0, 0, 0] for _ in names]
    for number, name in enumerate(names):
        for file in sorted(os.listdir(os.path.join(data, "val", name))):
            picture = Image.open(os.path.join(data, "val", name, file)).convert("RGB")
            with torch.no_grad():
                rows[number][model(transform(picture)[None])[0].argmax().item()] += 1
    return rows


def test_the_numbers_of_each_class_on_one_and_two_processes(tmp_path):
    data, out = write_noise(str(tmp_path / "images"), dict.fromkeys(VAL, 8), VAL), str(tmp_path / "out")
    words = ["--data-path=" + data] + OPTIONS
    status, _, err = run_main(words + ["--output-dir=" + out, "--epochs=1"])
    assert status == 0, err
    found, found_losses = [], []
    for nproc, more in ((1, []), (2, ["--dist-eval"]), (2, ["--no-dist-eval"])):
        folder = str(tmp_path / ("%d%s" % (nproc, "".join(more))))
        evaluates = ["--eval", "--per-class", "--resume=" + out, "--output-dir=" + folder]
        status, text, err = run_main(words + evaluates + more, nproc)
        assert status == 0, err
        assert text.count("Lowest accuracy by class") == 1 and text.count("new\\nline") >= 1
        with open(os.path.join(folder, "evaluation.json")) as file:
            result = json.load(file)
        assert result.pop("world_size") == nproc
        losses = [result.pop(name) for name in ("loss", "ema_loss")]
        found.append(result)
        found_losses.append(losses)
    first = found[0]
    assert found == [first] * 3
    assert all(losses == pytest.approx(found_losses[0], abs=1e-6) for losses in found_losses)
    assert first["confusion"] == counted_by_hand(data, words, os.path.join(out, "best.pth"))
    for number, row in enumerate(first["per_class"]):
        assert row["name"] == sorted(VAL)[number] and row["images"] == VAL[row["name"]]
        assert row["correct"] == first["confusion"][number][number]
    assert first["images"] == sum(VAL.values()) == sum(map(sum, first["confusion"]))
