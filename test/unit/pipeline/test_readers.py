"""The interface of readers: a data set gets at its images through it alone, whatever its keys are."""

import io

import pytest
import torch
from command_lines import parse
from odd_pictures import encoded
from odd_pictures import pixels as noise

import datasets
from pipeline.batches import Batches
from pipeline.readers.base import Reader
from pipeline.samplers import EvalShard, ShardBatches
from runtime.device import Device


class MemoryReader(Reader):
    """Images in a dictionary, with one that is not there."""

    def __init__(self, images):
        self.images = images

    def open(self, key):
        if key not in self.images:
            raise OSError("not in memory")
        return io.BytesIO(self.images[key])

    def name(self, key):
        return "image <%s>" % key


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_images_that_are_no_files(tmp_path, form, workers):
    contents = {str(number): encoded(noise(40, 36, number), form) for number in range(4)}
    paths = []
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        paths.append(str(tmp_path / name))
    loaded = []
    for reader, keys in ((datasets.FILES, paths), (MemoryReader(contents), list(contents))):
        dataset = datasets.image_folder([(key, 0) for key in keys], parse("--input-size=32"), False, reader)
        shard = ShardBatches(EvalShard(len(dataset)), 4)
        batches = Batches(dataset, shard, Device("cpu"), workers=workers)
        loaded.append(next(iter(batches))[0])
        batches.end()  # torch 1.5 waits without end for processes that the garbage collector ends
    assert loaded[0].shape == (4, 3, 32, 32) and torch.equal(*loaded)


def test_a_missing_image_is_named_by_its_reader():
    dataset = datasets.image_folder([("a", 0)], parse("--input-size=32"), False, MemoryReader({}))
    assert dataset[0].bad_files == ["image <a> (not in memory)"]
