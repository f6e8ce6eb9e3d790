"""Odd and broken image files: decoded as the reference decodes them, or named and refused, or skipped and counted."""

import os
import sys
import types

import pytest
from odd_images import BROKEN, ODD, colours, noise, plain
from PIL import Image

import datasets
from batches import collate
from pictures import list_classes, list_images, read_picture, shown
from runtime.errors import UserError
from samplers import Position

SIZES = (32, 224)


def transform(size, is_train):
    args = types.SimpleNamespace(input_size=size, color_jitter=0.4, aa="rand-m9-mstd0.5-inc1", hflip=0.5)
    vars(args).update(train_interpolation="bicubic", reprob=0.25, remode="pixel", recount=1)
    return datasets.build_transform(is_train, args)


def folder_with(root, make, name="x.png"):
    """A folder with one class of one file; (the folder, the file)."""
    os.makedirs(os.path.join(str(root), "cat"))
    path = os.path.join(str(root), "cat", name)
    make(path)
    return str(root), path


@pytest.mark.parametrize("make", ODD, ids=lambda make: make.__name__)
def test_odd_pictures_are_decoded_as_the_reference_does(tmp_path, make, recwarn):
    root, path = folder_with(tmp_path, make)
    with open(path, "rb") as file:
        want = Image.open(file).convert("RGB")
    recwarn.clear()
    assert read_picture(path).tobytes() == want.tobytes() and read_picture(path).size == want.size
    for size in SIZES:
        sample = datasets.ImageFolder(root, ["cat"], transform(size, False))[0]
        assert sample.bad_files == [] and tuple(sample.image.shape) == (3, size, size)
        train = datasets.ImageFolder(root, ["cat"], transform(size, True))
        assert tuple(train[Position(0, (0, 0, 0, 0))].image.shape) == (3, size, size)
    assert not [warning for warning in recwarn if "PIL" in warning.filename]


@pytest.mark.parametrize("make", list(BROKEN), ids=lambda make: make.__name__)
def test_broken_files_are_named(tmp_path, make):
    root, path = folder_with(tmp_path, make)
    for is_train in (True, False):
        sample = datasets.ImageFolder(root, ["cat"], transform(32, is_train))[Position(0, (0, 0, 0, 0))]
        assert sample.image is None and len(sample.bad_files) == 1
        assert sample.bad_files[0].startswith(path + " (")
        assert any(word in sample.bad_files[0] for word in BROKEN[make].split("|")), sample.bad_files


@pytest.mark.parametrize("shape", [(10, 30000), (30000, 10)])
def test_long_pictures(tmp_path, shape):
    """Enlarged to 256 on the shorter side one would take gigabytes, as only evaluation above 32 pixels does."""
    root, path = folder_with(tmp_path, lambda path: Image.fromarray(noise(*shape)).save(path))
    for size, is_train in ((32, True), (32, False), (224, True)):
        sample = datasets.ImageFolder(root, ["cat"], transform(size, is_train))[Position(0, (0, 0, 0, 0))]
        assert tuple(sample.image.shape) == (3, size, size)
    sample = datasets.ImageFolder(root, ["cat"], transform(224, False))[0]
    assert sample.image is None and "would be resized to 196608000 in all" in sample.bad_files[0]


def test_a_file_that_may_not_be_read(tmp_path):
    root, path = folder_with(tmp_path, plain)
    os.chmod(path, 0)
    dataset = datasets.ImageFolder(root, ["cat"], transform(32, False))
    for parent in [str(tmp_path)] + [str(folder) for folder in tmp_path.parents if str(folder).startswith("/tmp/")]:
        os.chmod(parent, 0o755)
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(65534)
    try:
        sample = dataset[0]
    finally:
        if is_root:
            os.seteuid(0)
    assert sample.image is None and "Permission denied" in sample.bad_files[0]


def test_a_file_that_vanishes_is_replaced_and_counted(tmp_path):
    root, path = folder_with(tmp_path, plain)
    colours().save(os.path.join(root, "cat", "y.png"))
    for replaces, shape in ((True, (3, 32, 32)), (False, None)):
        dataset = datasets.ImageFolder(root, ["cat"], transform(32, True), replace_bad=replaces)
        if os.path.exists(path):
            os.unlink(path)
        else:
            dataset.images.insert(0, (path, 0))
        sample = dataset[Position(0, (0, 0, 0, 0))]
        assert (tuple(sample.image.shape) if replaces else sample.image) == shape
        assert sample.bad_files == ["%s (No such file or directory)" % path]
    images, targets, bad_files = collate([dataset[0], dataset[1], dataset[0]])
    assert len(images) == 1 and targets.tolist() == [0] and len(bad_files) == 2


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not allow such names")
@pytest.mark.parametrize("name", [b"a\nb.png", b"\xff\xfe.png", b"-n.png", b"$(x) 'y' \"z\";.png", "猫.png".encode()])
def test_odd_names(tmp_path, name):
    name = os.fsdecode(name)
    root, path = folder_with(tmp_path, plain, name)
    dataset = datasets.ImageFolder(root, list_classes(root), transform(32, False))
    assert dataset[0].bad_files == [] and dataset.images == [(path, 0)]
    os.truncate(path, 0)
    (named,) = dataset[0].bad_files
    assert "\n" not in named and named.encode("utf-8") and shown(path) in named
    if name.isprintable():
        assert path in named


def test_a_folder_named_like_a_picture_is_a_folder(tmp_path):
    root, path = folder_with(tmp_path, os.mkdir, "x.jpg")
    assert list_images(root, ["cat"]) == []
    plain(os.path.join(path, "y.png"))
    assert list_images(root, ["cat"]) == [(os.path.join(path, "y.png"), 0)]


@pytest.mark.parametrize("target", [".", "..", "../..", "cat", "cat/deep"])
def test_links_that_lead_back_are_refused(tmp_path, target):
    root, path = folder_with(tmp_path / "train", plain)
    os.makedirs(os.path.join(root, "cat", "deep"))
    os.symlink(os.path.realpath(os.path.join(root, target)), os.path.join(root, "cat", "deep", "back"))
    with pytest.raises(UserError, match=r"back is a link back to .*: remove it"):
        list_images(root, ["cat"])


def test_links_that_lead_elsewhere_are_followed(tmp_path):
    root, path = folder_with(tmp_path / "train", plain)
    os.makedirs(str(tmp_path / "more"))
    plain(str(tmp_path / "more" / "z.png"))
    os.symlink(str(tmp_path / "more"), os.path.join(root, "cat", "more"))
    assert [found for found, _ in list_images(root, ["cat"])] == [path, os.path.join(root, "cat", "more", "z.png")]
    os.symlink(root, str(tmp_path / "more" / "round"))  # a ring of two links
    with pytest.raises(UserError, match="round is a link back"):
        list_images(root, ["cat"])


def test_a_folder_that_may_not_be_listed(tmp_path, monkeypatch):
    root, _ = folder_with(tmp_path, plain)

    def refuse(path):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "scandir", refuse)
    for call in (lambda: list_images(root, ["cat"]), lambda: list_classes(root)):
        with pytest.raises(UserError, match="cannot be listed: Permission denied"):
            call()
