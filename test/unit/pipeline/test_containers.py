"""The same images in folders, lists and archives: one order, one set of classes, the same bytes."""

import os
import shutil

import pytest
from containers import CONTAINERS, content_of
from image_folders import write_images
from torchvision.datasets import ImageFolder

from pipeline import listing, sources
from pipeline.image_index import same_images
from pipeline.layout import list_classes


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = str(tmp_path_factory.mktemp("containers") / "data")
    write_images(root, train=4, val=3)
    for place in ("10", "in", "in-2"):  # ImageFolder sorts folders by their whole paths
        folder = os.path.join(root, "train", "cat", place)
        os.makedirs(folder)
        for name in ("2", "10", "B"):
            shutil.copyfile(os.path.join(root, "train", "dog", "00.png"), os.path.join(folder, name + ".png"))
    return root


def listed(root, classes=None):
    found = sources.find(root, ("train", "val"))
    train = listing.list_source(found["train"], classes)
    return train, listing.list_source(found["val"], train.classes)


def contents(images):
    reader = images.reader()
    found = []
    for key, target in images:
        with reader.open(key) as file:
            found.append((file.read(), images.classes[target]))
    return found


@pytest.mark.parametrize("name", sorted(CONTAINERS))
def test_each_form_has_image_folder_s_order_and_bytes(data, tmp_path, name):
    if name == "tars of tars":  # which have no folders within a class
        data = str(tmp_path / "data")
        write_images(data, train=4, val=3)
    made = str(tmp_path / "made")
    CONTAINERS[name](data, made)
    images, others = listed(made), listed(data)
    for part, mine, folder in zip(("train", "val"), images, others):
        samples = ImageFolder(os.path.join(data, part)).samples
        expected = [(content_of(path), list_classes(os.path.join(data, part))[target]) for path, target in samples]
        known = mine.classes if mine.classes != ["0", "1"] else None
        found = contents(mine)
        if known is None:  # labels are numbers, and nothing names the classes
            found = [(content, folder.classes[int(label)]) for content, label in found]
        assert found == expected
        assert same_images(mine.fingerprint, folder.fingerprint)


@pytest.mark.parametrize("name", sorted(CONTAINERS))
def test_the_names_of_known_classes_count(data, tmp_path, name):
    CONTAINERS[name](data, str(tmp_path / "made"))
    names = ["bird", *list_classes(os.path.join(data, "train"))]
    if name in ("shards", "txt", "tars of tars"):  # numbers
        names = names[1:] + ["bird"]
    images, _ = listed(str(tmp_path / "made"), names)
    assert images.classes == names and images.empty_classes() == [names.index("bird")]
