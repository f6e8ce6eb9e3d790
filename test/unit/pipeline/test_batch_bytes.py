"""Pictures that travel as bytes become what the published transform makes of them, to the last bit."""

import numpy
import pytest
import torch
from command_lines import parse
from image_folders import make_folder, test_picture
from loaders import load

import datasets
from pipeline import batch_bytes
from pipeline.readers.files import FileReader
from pipeline.samplers import Position
from runtime.device import Device
from runtime.seeding import position_seed, seed_host

CPU = Device("cpu")


def seed(number):
    seed_host(position_seed("sample", number))


@pytest.mark.parametrize(
    "words",
    [
        ("--reprob=0.9",),
        ("--reprob=1", "--remode=rand", "--recount=4"),
        ("--reprob=1", "--remode=const"),
        ("--reprob=0",),
        ("--aa=", "--reprob=0.5"),
    ],
)
def test_a_batch_of_bytes_is_the_published_batch(words):
    transform = datasets.build_transform(parse("--input-size=64", *words), True)
    split, want, got = batch_bytes.ToBytes(transform), [], []
    for number in range(8):
        picture = test_picture(90 + number, 70)
        seed(number)
        want.append(transform(picture))
        seed(number)
        got.append(split(picture))
    batch = batch_bytes.stack(got, list(range(8)))
    assert batch.bytes.dtype == torch.uint8 and batch.bytes.shape == (8, 64, 64, 3)
    images, targets = batch_bytes.normalize(batch, CPU)
    assert torch.equal(images, torch.stack(want)) and targets.tolist() == list(range(8))
    assert bool(len(batch.boxes)) == ("--reprob=0" not in words)


def test_a_transform_of_other_steps_is_refused():
    transform = datasets.build_transform(parse("--input-size=32"), False)
    transform.transforms.append(torch.nn.Identity())
    with pytest.raises(ValueError, match="cannot be split: .*Identity"):
        batch_bytes.ToBytes(transform)


def test_a_picture_is_decoded_once_for_its_repetitions(tmp_path, monkeypatch):
    opened = []
    root = make_folder(tmp_path)
    train = load(root, "--repeated-aug", "--aa=rand-m9-mstd0.5-inc1").train
    reader = train.dataset.reader
    monkeypatch.setattr(train.dataset, "reader", FileReader())
    monkeypatch.setattr(train.dataset.reader, "open", lambda path: opened.append(path) or reader.open(path))
    together = list(train.epoch(0))
    indices = [index for step in range(len(train)) for index, _ in train.images_of(0, step, 0)]
    assert len(opened) == len(set(indices)) < len(indices)
    for step, (images, _) in enumerate(together):
        for draw, index in enumerate(indices[2 * step : 2 * step + 2], 2 * step):
            fresh = load(root, "--repeated-aug", "--aa=rand-m9-mstd0.5-inc1").train.dataset
            sample = fresh[Position(index, (0, 0, 0, draw))]
            alone, _ = batch_bytes.normalize(batch_bytes.stack([sample.pixels], [0]), CPU)
            assert torch.equal(alone[0], images[draw - 2 * step])


def test_an_evaluated_picture_is_an_integer_picture():
    split = batch_bytes.ToBytes(datasets.build_transform(parse("--input-size=32"), False))
    assert torch.equal(split(test_picture(32, 32)).bytes, torch.from_numpy(numpy.array(test_picture(32, 32))))
