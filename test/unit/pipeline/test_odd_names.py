"""Files whose names are no plain text are read, named and logged."""

import json
import logging
import os
import subprocess
import sys
import types

import pytest
import torch
from command_lines import parse
from image_folders import make_data, plain
from loaders import ONE_RANK, folder_of, load
from odd_pictures import decodable, odd_names, write

import datasets
import utils
from checkpoints import loading, store
from options import config_files, parsing
from pipeline.layout import list_classes
from pipeline.listing import list_images
from runtime import programs
from runtime.errors import UserError, one_line, printable, shown

pytestmark = pytest.mark.usefixtures("no_hang")
GOOD = decodable()
NAMES = odd_names()


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_odd_names_are_read_and_named(tmp_path, name):
    good = os.path.join(write(tmp_path / name, {name + ".png": GOOD["dot.png"]}), name + ".png")
    assert list_images(str(tmp_path), list_classes(str(tmp_path))) == [(good, 0)]
    assert folder_of(good)[0].pixels is not None
    write(tmp_path / name, {name + ".png": b""})
    message = str(UserError(folder_of(good)[0].bad_files[0]))
    assert message == "%s (no known image format)" % shown(good)
    assert message.isprintable() and message.encode("utf-8") and message.encode("ascii", "backslashreplace")


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_a_shown_name_finds_the_file(tmp_path, name):
    if name.isprintable():
        assert shown(name) == name
        return
    text = shown(os.path.join(write(tmp_path, {name: b"found"}), name))
    assert text.startswith("$'") and text.endswith("'") and text.isprintable()
    environ = dict(os.environ, LC_ALL="C.UTF-8")
    found = subprocess.run(["bash", "-c", "cat " + text], stdout=subprocess.PIPE, check=True, env=environ).stdout
    assert found == b"found"


def test_shown():
    assert shown("/data/a b/\u732b's.png") == "/data/a b/\u732b's.png"
    assert shown("a\n\udcff\u0085'\\\U000e0001") == r"$'a\n\xff\u0085\'\\\U000e0001'"
    assert printable("\ud800\t") == r"\ud800\t"
    assert one_line("a\n  b\udcff\x1b") == r"a b\xff\x1b"


@pytest.mark.parametrize("encoding", ["ascii", "utf-8", "latin-1"])
def test_logs_take_any_name(tmp_path, monkeypatch, capfd, encoding):
    path = str(tmp_path / "train_0.log")
    with open(str(tmp_path / "console"), "w", encoding=encoding) as console:
        monkeypatch.setattr(sys, "stdout", console)
        utils.open_log("test", True)
        utils.log_to_file(path)
        for name in NAMES:
            logging.getLogger("test").info("the file %s", name)
            programs.report("main.py", "again " + name)
        monkeypatch.undo()
    utils.open_log("test", False)
    with open(path, encoding="utf-8") as file, open(console.name, encoding=encoding) as shown_lines:
        text, lines = file.read(), shown_lines.read()
    for name in NAMES:
        in_utf_8 = name.encode("utf-8", "backslashreplace").decode()
        assert "the file %s\n" % in_utf_8 in text and "main.py: %s\n" % one_line("again " + name) in text
        assert "the file %s\n" % name.encode(encoding, "backslashreplace").decode(encoding) in lines
    assert "Logging error" not in capfd.readouterr().err


def test_files_take_any_name(tmp_path):
    path = str(tmp_path / "file")
    utils.write_json(path, {"names": NAMES})
    with open(path, encoding="ascii") as file:
        assert json.load(file)["names"] == NAMES
    for name in NAMES:
        values = dict(parse().as_dict(), output_dir="/data/" + name)
        utils.write_text(path, config_files.to_yaml(types.SimpleNamespace(as_dict=lambda values=values: values)))
        assert config_files.read_config(path)["output_dir"] == "/data/" + name
        if "\udcff" not in name:  # on the command line such a one is refused
            assert parsing.parse(["--config=" + path]).output_dir == "/data/" + name


def test_class_names_survive_a_checkpoint(tmp_path):
    folder = write(tmp_path / NAMES[1], {})
    content = {"model": {"w": torch.zeros(len(NAMES))}, "classes": NAMES, "args": {"data_path": NAMES}}
    store.save(content, folder, True)
    loaded = loading.load(os.path.join(folder, store.LATEST))
    assert loaded["classes"] == NAMES and loaded["args"]["data_path"] == NAMES
    for name in NAMES:
        write(tmp_path / "data" / "val" / name, {"x.png": GOOD["dot.png"]})
    words = ["--data-path=%s" % (tmp_path / "data"), "--eval", "--num-workers=0", "--input-size=32"]
    found = datasets.build_loaders(parsing.parse(words), ONE_RANK, loaded["classes"])
    assert found.classes == NAMES
    targets = [target for _, targets in found.val for target in targets.tolist()]
    assert targets == list(range(len(NAMES)))
    write(tmp_path / "data" / "val" / "strange\n", {"x.png": GOOD["dot.png"]})
    with pytest.raises(UserError, match=r"'strange\\n' is not among the training classes"):
        datasets.build_loaders(parsing.parse(words), ONE_RANK, loaded["classes"])


def test_messages_about_folders_are_one_line(tmp_path):
    root = make_data(tmp_path / "new\nline", plain(2), plain(1))
    os.mkdir(os.path.join(root, "train", "empty \udcff"))
    for words, reason in ([], r"empty \xff' holds no images"), (["--data-path=%s/nowhere" % root], "no such folder"):
        with pytest.raises(UserError) as caught:
            load(root, *words)
        assert str(caught.value).isprintable() and reason in str(caught.value)
