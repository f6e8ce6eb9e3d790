"""Whole runs over folders that hold every kind of odd picture, and of file that is none."""

import json
import os
import stat

from odd_pictures import decodable, encoded, odd_names, pixels, strips, undecodable, write
from small_runs import log_of
from warm_runs import OPTIONS, run_main

from checkpoints import loading, store

CLASSES = ["cat"] + [name for name in odd_names() if "\n" in name or "\udcff" in name or "$" in name or "-" in name]


def write_classes(folder):
    """Fill the class folders: an ordinary picture each, in the first every odd one and every bad file; their counts."""
    good = dict(decodable(), **strips())
    good.update({name + ".png": good["dot.png"] for name in odd_names()})
    bad = dict(undecodable(), **{name + ".jpg": b"" for name in odd_names()})
    first = write(os.path.join(folder, CLASSES[0]), dict(good, **bad))
    write(os.path.join(first, "inner.png"), {"plain.png": good["dot.png"]})
    os.symlink(os.path.join(first, "plain.jpg"), os.path.join(first, "link.jpg"))
    for name in CLASSES[1:]:
        write(os.path.join(folder, name), {"plain.png": encoded(pixels(), "PNG")})
    return len(good) + 2 + len(CLASSES) - 1, len(bad) + add_what_is_no_file(first)


def add_what_is_no_file(folder):
    """A pipe, a link to nothing, one to itself, and a device where one can be made; their number."""
    os.mkfifo(os.path.join(folder, "pipe.jpg"))
    os.symlink("nothing", os.path.join(folder, "nothing.jpg"))
    os.symlink("itself.jpg", os.path.join(folder, "itself.jpg"))
    try:
        os.mknod(os.path.join(folder, "device.jpg"), 0o666 | stat.S_IFCHR, os.makedev(1, 5))
    except OSError as error:
        print("NOT CHECKED: no device node can be made here: %s" % error)
        return 3
    return 4


def read(*parts):
    with open(os.path.join(*parts), encoding="utf-8") as file:
        return file.read()


def test_all_odd_pictures_train_and_all_bad_files_are_skipped(tmp_path):
    images = str(tmp_path / "odd\n images")
    good, bad = write_classes(os.path.join(images, "train"))
    assert write_classes(os.path.join(images, "val")) == (good, bad)
    ordinary = -(good + bad) % 8  # so that an epoch of whole batches of 4 on 2 processes shows each file once
    more = {"z%d.png" % number: encoded(pixels(), "PNG") for number in range(ordinary)}
    write(os.path.join(images, "train", CLASSES[0]), more)
    folder, result = str(tmp_path / "out\n"), str(tmp_path / "result.json")
    words = ["--data-path=" + images, "--skip-bad-images"] + OPTIONS + ["--num-workers=1"]

    status, out, err = run_main(words + ["--output-dir=" + folder, "--epochs=1"], 2)
    assert (status, err) == (0, "")
    (row,) = log_of(folder)
    assert row["train_images_skipped"] == bad
    facts = json.loads(read(folder, "summary.json"))
    assert (facts["status"], facts["train_images"], facts["val_images"]) == (
        "complete",
        good + bad + ordinary,
        good + bad,
    )
    for text in (out, read(folder, "train_0.log")):
        assert "skipped %d unreadable images" % bad in text
        for sign in ("Traceback", "Logging error", "PIL", "Pillow", "EXIF", "bomb"):
            assert sign not in text, sign
    loaded = loading.load(os.path.join(folder, store.LATEST))
    assert loaded["classes"] == sorted(CLASSES) == sorted(os.listdir(os.path.join(images, "val")))
    assert loaded["args"]["data_path"] == images

    os.unlink(os.path.join(images, "val", CLASSES[0], "empty.jpg"))
    status, out, err = run_main(words + ["--eval", "--resume=" + folder, "--eval-json=" + result])
    assert (status, err) == (0, "")
    facts = json.loads(read(result))
    assert (facts["images"], facts["skipped"]) == (good, bad - 1)
    assert "Accuracy of the network on the %d test images" % good in out


def test_a_bad_file_with_an_odd_name_is_told_once(tmp_path):
    for part in ("train", "val"):
        for name in CLASSES[:2]:
            files = {"%d.png" % number: encoded(pixels(seed=number), "PNG") for number in range(8)}
            write(tmp_path / part / name, files)
    os.mkfifo(str(tmp_path / "train" / CLASSES[1] / "pipe \udcff\n.jpg"))
    status, _, err = run_main(["--data-path=" + str(tmp_path), "--epochs=9"] + OPTIONS, 2)
    assert status == 2
    lines = err.splitlines()
    assert len(lines) == 1 and r"pipe \xff\n.jpg' (not a regular file); repair" in lines[0]
    assert lines[0].startswith("main.py: error: unreadable image: $'") and lines[0].endswith("--skip-bad-images")
