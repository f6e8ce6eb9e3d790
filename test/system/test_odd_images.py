"""A run over every odd and broken file at once."""

import json
import os

import odd_images as odd
import pytest
from conftest import OPTIONS, log_of, run_main, write_images
from test_faults import words_for

from runtime import checkpoint


@pytest.fixture
def mixed(tmp_path):
    """A folder with good, odd and broken pictures in both parts, and a class whose name is no text."""
    data = write_images(str(tmp_path / "data"), train=10, val=4)
    for part in ("train", "val"):
        os.rename(os.path.join(data, part, "dog"), os.fsdecode(os.fsencode(os.path.join(data, part)) + b"/\xff\n$(x)"))
        for number, make in enumerate(odd.ODD + list(odd.BROKEN)):
            make(os.path.join(data, part, "cat", "odd %d.png" % number))
    return data


def test_all_at_once(mixed, tmp_path):
    out, result = str(tmp_path / "out"), str(tmp_path / "result.json")
    words = words_for(mixed, out, "--skip-bad-images", "--num-workers=1")
    status, text, err = run_main(words, 2)
    assert status == 0 and err == "", err
    broken, seen = len(odd.BROKEN), 10 + len(odd.ODD) + len(odd.BROKEN)
    assert all(
        row["train_images_skipped"] >= broken - 2 for row in log_of(out)
    )  # a batch that is not whole is left out
    assert "skipped %d unreadable images" % broken in text and "%d train" % (seen + 10) in text
    assert "\xff" not in text and "Warning" not in text
    assert checkpoint.load(os.path.join(out, checkpoint.LATEST))["classes"] == [
        "cat",
        os.fsdecode(b"\xff\n$(x)"),
    ]
    words = ["--data-path=" + mixed, "--eval", "--skip-bad-images", "--resume=" + out, "--eval-json=" + result]
    status, _, err = run_main(words + OPTIONS, 1)
    assert status == 0 and err == "", err
    with open(result) as file:
        values = json.load(file)
    assert (values["images"], values["skipped"]) == (8 + len(odd.ODD), broken)


def test_without_the_option_one_is_named(mixed, tmp_path):
    status, _, err = run_main(words_for(mixed, str(tmp_path / "out")))
    lines = err.splitlines()
    assert status == 2 and len(lines) == 1 and "unreadable image: " in lines[0] and "--skip-bad-images" in lines[0]
