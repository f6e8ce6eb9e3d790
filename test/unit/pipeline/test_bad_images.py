"""Odd pictures come out as the reference has them; what is no picture is named, or skipped and counted."""

import contextlib
import errno
import importlib
import os
import types
import warnings

import pytest
import torch
from command_lines import parse
from image_folders import make_data, plain
from loaders import KEY, folder_of, load
from odd_pictures import chunk, decodable, encoded, pixels, png, strips, undecodable, write
from PIL import Image
from torchvision import transforms

import datasets
import engine
from pipeline import batches, reading
from pipeline.batch_bytes import normalize, stack
from pipeline.inspection import ImageFiles
from pipeline.readers.files import FileReader
from pipeline.samplers import Position
from runtime.device import Device
from runtime.errors import RunError, UserError
from runtime.names import IMAGENET_MEAN, IMAGENET_STD
from runtime.seeding import position_seed, seed_host

pytestmark = pytest.mark.usefixtures("no_hang")
GOOD, BAD = dict(decodable(), **strips()), undecodable()


def reference(path, is_train, size):
    """The tensor of the published pipeline, and seeds as for KEY."""
    picture = Image.open(path).convert("RGB")
    if is_train:
        seed_host(position_seed("sample", *KEY))
        return datasets.build_transform(parse("--input-size=%d" % size), True)(picture)
    steps = [transforms.Resize(int(256 / 224 * size), interpolation=Image.BICUBIC), transforms.CenterCrop(size)]
    if picture.size == (size, size) == (32, 32):
        steps = []
    steps += [transforms.ToTensor(), transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD)]
    return transforms.Compose(steps)(picture)


def image_of(sample):
    """The (3, H, W) that the device gets."""
    return normalize(stack([sample.pixels], [sample.target]), Device("cpu"))[0][0]


def modes(name):
    """The (is_train, size) in which a file has a picture."""
    sizes = [(True, 32), (False, 32), (True, 224), (False, 224)]
    return [mode for mode in sizes if name not in strips() or mode != (False, 224)]


@pytest.mark.parametrize("name", sorted(GOOD))
@pytest.mark.filterwarnings("ignore")
def test_an_odd_picture_is_read_as_the_reference_reads_it(tmp_path, name):
    path = os.path.join(write(tmp_path / "a", {name: GOOD[name]}), name)
    for is_train, size in modes(name):
        sample = folder_of(path, is_train, size)[Position(0, KEY) if is_train else 0]
        assert sample.bad_files == []
        assert torch.equal(image_of(sample), reference(path, is_train, size))


@pytest.mark.parametrize("name", sorted(BAD))
def test_a_file_without_a_picture_is_named(tmp_path, name):
    path = os.path.join(write(tmp_path / "a", {name: BAD[name]}), name)
    for is_train in (True, False):
        sample = folder_of(path, is_train)[Position(0, KEY) if is_train else 0]
        assert sample.pixels is None and sample.target is None
        (named,) = sample.bad_files
        assert named.startswith(path + " (") and named.isprintable()
        assert len(named) > len(path) + 4, "no reason is given"


def test_a_strip_that_would_be_huge_is_named(tmp_path):
    folder = write(tmp_path / "a", strips())
    for name in sorted(strips()):
        sample = folder_of(os.path.join(folder, name), False, 224)[0]
        assert name in sample.bad_files[0] and "would be resized to 196608000 in all" in sample.bad_files[0]


def test_the_limit_is_pillow_s(monkeypatch):
    resize, wide, tall = reading.BoundedResize(8), Image.new("RGB", (50, 4)), Image.new("RGB", (4, 51))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 400)
    assert resize(wide).size == (100, 8)
    with pytest.raises(ValueError, match="4 x 51 pixels would be resized to 816 in all"):
        resize(tall)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert resize(tall).size == (8, 102)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_picture_between_pillow_s_limits_is_read(tmp_path, monkeypatch):
    path = os.path.join(write(tmp_path / "a", {"plain.png": encoded(pixels(60, 50), "PNG")}), "plain.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2000)
    assert folder_of(path)[0].pixels is not None
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1400)
    assert "decompression bomb" in folder_of(path)[0].bad_files[0]


def test_pillow_does_not_chatter(tmp_path, monkeypatch, capfd):
    folder = write(tmp_path / "a", dict(GOOD, **BAD))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 400)  # for most of them a warning, too
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with contextlib.suppress(OSError):
            Image.open(os.path.join(folder, "palette_of_bytes.png")).convert("RGB").close()
        assert "Palette images with Transparency" in str([str(each.message) for each in caught])
        del caught[:]
        importlib.reload(reading)  # pytest has put its own filters in the place of the module's
        for name in os.listdir(folder):
            with contextlib.suppress(Exception):
                reading.read_image(os.path.join(folder, name))
        assert [str(each.message) for each in caught] == []
    assert capfd.readouterr().err == ""


def test_a_transform_that_fails_names_the_file(tmp_path):
    def fails(picture):
        raise KeyError("strange")

    path = os.path.join(write(tmp_path / "a", {"plain.jpg": GOOD["plain.jpg"]}), "plain.jpg")
    images = folder_of(path)
    images.transform = fails
    assert images[0].bad_files == ["%s (KeyError: 'strange')" % path]


@pytest.mark.parametrize(
    "error, reason",
    [
        (OSError("one\n two"), "one two"),
        (FileNotFoundError(2, "No such file or directory", "x"), "No such file or directory"),
        (ValueError(), "ValueError"),
        (MemoryError(), "MemoryError"),
    ],
)
def test_reasons(error, reason):
    assert reading.failure_of(error) == reason


def test_bad_files_in_batches(tmp_path):
    root = make_data(tmp_path, dict(BAD, **plain(2)), dict(BAD, **plain(3)))
    skipping = load(root, "--skip-bad-images")
    assert [len(images) for images, _ in skipping.train.epoch(0)] == [2] * ((len(BAD) + 2) // 2)
    assert skipping.train.skipped == len(BAD)
    assert sum(len(images) for images, _ in skipping.val) == 3
    assert skipping.val.skipped == len(BAD)
    strict = load(root)
    for part in (strict.train.epoch(0), strict.val):
        with pytest.raises(UserError, match=r"^unreadable image: .*/a/\w+\.\w+ \(.+\); .*--skip-bad-images$") as caught:
            list(part)
        assert caught.value.one_rank and str(caught.value).isprintable()


def test_the_next_readable_picture_replaces_a_bad_one(tmp_path):
    root = make_data(tmp_path, dict(BAD, **plain(2)), plain(1))
    dataset = load(root, "--skip-bad-images").train.dataset
    good = dataset.images[len(BAD)][0]
    first, bad = dataset[Position(len(BAD), KEY)], dataset[Position(0, KEY)]
    assert good.endswith("z00.png") and first.bad_files == []
    assert torch.equal(bad.pixels.bytes, first.pixels.bytes)
    assert bad.bad_files[0].startswith(dataset.images[0][0] + " (")


def test_a_file_that_vanishes_during_the_run(tmp_path):
    root = make_data(tmp_path, plain(4), plain(2))
    strict, skipping = load(root), load(root, "--skip-bad-images")
    for loaders in (strict, skipping):
        assert len(list(loaders.train.epoch(0))) == 2
    os.unlink(os.path.join(root, "train", "a", "z01.png"))
    with pytest.raises(UserError, match=r"z01\.png \(No such file or directory\)"):
        list(strict.train.epoch(1))
    assert len(list(skipping.train.epoch(1))) == 2
    assert skipping.train.skipped == 1


@pytest.mark.parametrize("left", [0, 1])
def test_a_data_set_that_vanishes_ends_the_run(tmp_path, monkeypatch, left):
    root = make_data(tmp_path, plain(8), plain(1))
    monkeypatch.setattr(datasets, "MOST_REPLACED", 3)
    tries = []
    read = datasets.FILES.open
    monkeypatch.setattr(datasets.FILES, "open", lambda path: (tries.append(path), read(path))[1])
    train = load(root, "--skip-bad-images", "--batch-size=8").train
    for number in range(left, 8):
        os.unlink(os.path.join(root, "train", "a", "z%02d.png" % number))
    with pytest.raises(UserError, match="like all that could take its place: is --data-path still there") as caught:
        list(train.epoch(0))
    assert caught.value.one_rank and len(tries) <= 4 * 8


def test_too_many_open_files_are_no_fault_of_an_image(tmp_path, monkeypatch):
    """Which is neither skipped nor reported as broken."""
    root = make_data(tmp_path, plain(4), plain(2))
    skipping = load(root, "--skip-bad-images")
    files = ImageFiles(skipping.val.dataset.images, 32, False)

    def fail(*_):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(FileReader, "open", fail)
    for read in (lambda: list(skipping.val), lambda: list(skipping.train.epoch(0)), lambda: files[0]):
        with pytest.raises(OSError, match="Too many open files"):
            read()


def test_nothing_readable_ends_a_speed_test(tmp_path):
    root = make_data(tmp_path, plain(2), BAD)
    val = load(root, "--skip-bad-images", "--throughput").val
    with pytest.raises(RunError, match="no image could be read"):
        engine.throughput(types.SimpleNamespace(), torch.nn.Identity(), val)


def test_collate_of_no_picture_at_all():
    nothing = datasets.Sample(None, None, ["x (y)"])
    assert batches.collate([nothing, nothing]) == (None, ["x (y)", "x (y)"])


def test_helper_makes_a_png_that_pillow_reads(tmp_path):
    path = os.path.join(write(tmp_path, {"x.png": png(2, 1, 8, 0, b"\0ab", chunk(b"tEXt", b"a\0b"))}), "x.png")
    assert list(reading.read_image(path).tobytes()) == [97] * 3 + [98] * 3
