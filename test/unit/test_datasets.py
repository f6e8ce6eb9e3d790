"""Folders, transforms and loaders."""

import os
import random
import shutil
import signal

import numpy
import pytest
import torch
from command_lines import parse
from image_folders import make_folder, test_picture
from loaders import ONE_RANK, first_of, load
from recipe import golden
from torch.utils.data import DataLoader

import datasets
from options import parsing
from pipeline.layout import list_classes
from pipeline.listing import list_images
from pipeline.loader import start
from runtime.compat import create_transform
from runtime.errors import UserError

EVAL_CASES = golden("components")["eval_transform"]["cases"]


@pytest.mark.parametrize("case", EVAL_CASES, ids=lambda case: "%s at %d" % (case["image_wh"], case["input_size"]))
def test_eval_transform(case):
    size = case["input_size"]
    tensor = datasets.build_transform(parse("--input-size=%d" % size), False)(test_picture(*case["image_wh"]))
    assert tensor.shape == (3, size, size)
    if size <= 32 and case["image_wh"] != [size, size]:
        return  # the reference keeps the picture's size there, which no model takes
    assert tensor.double().mean().item() == pytest.approx(case["mean"], abs=1e-6)
    numpy.testing.assert_allclose(tensor.flatten()[:8], case["first8"], rtol=0, atol=1e-5)
    numpy.testing.assert_allclose(tensor.flatten()[-4:], case["last4"], rtol=0, atol=1e-5)


def kinds(transform):
    return [type(step).__name__ for step in transform.transforms]


def test_train_transform_is_the_reference_s():
    transform = datasets.build_transform(parse(), True)
    names = kinds(transform)
    assert names[:3] == ["RandomResizedCropAndInterpolation", "RandomHorizontalFlip", "RandAugment"]
    assert names[-2:] == ["Normalize", "RandomErasing"]
    want = golden("components")["train_transform_repr"]["details_224"]
    augment, erasing = transform.transforms[2], transform.transforms[-1]
    assert augment.num_layers == want["randaugment_num_layers"]
    for operation, row in zip(augment.ops, want["randaugment_ops"]):
        assert operation.aug_fn.__name__ == row["aug_fn"]
        assert [operation.prob, operation.magnitude, operation.magnitude_std] == [
            row["prob"],
            row["magnitude"],
            row["magnitude_std"],
        ]
    for name in ("probability", "min_area", "max_area", "min_count", "max_count", "per_pixel"):
        assert getattr(erasing, name) == want["random_erasing"][name]


def test_small_pictures_are_padded_not_resized():
    transform = datasets.build_transform(parse("--input-size=32"), True)
    assert kinds(transform)[:2] == ["UnlessSized", "RandomCrop"]
    assert transform.transforms[1].padding == 4
    assert transform(test_picture(32, 32)).shape == (3, 32, 32)
    assert transform(test_picture(90, 50)).shape == (3, 32, 32)


def test_posterize_to_nothing_is_black():
    """The default policy reaches 0 bits, which Pillow 13 refuses."""
    transform = create_transform(input_size=32, is_training=True, auto_augment="rand-m9-mstd0.5-inc1")
    operations = next(step for step in transform.transforms if hasattr(step, "ops")).ops
    posterize = next(operation for operation in operations if operation.aug_fn.__name__ == "posterize")
    posterize.prob, posterize.magnitude, posterize.magnitude_std = 1.0, 10, 0
    assert numpy.asarray(posterize(test_picture(32, 32))).max() == 0
    posterize.magnitude = 0
    assert numpy.asarray(posterize(test_picture(32, 32))).max() > 0


def test_folder_becomes_batches(tmp_path):
    loaders = load(make_folder(tmp_path))
    assert loaders.classes == ["a", "b"]
    assert (loaders.train.image_count, loaders.val.image_count) == (6, 3)
    batches = list(loaders.train.epoch(0))
    assert [images.shape for images, _ in batches] == [(2, 3, 32, 32)] * 3
    assert sorted(sum((targets.tolist() for _, targets in batches), [])) == [0, 0, 0, 1, 1, 1]
    assert sum((targets.tolist() for _, targets in loaders.val), []) == [0, 1, 1]


def test_order_is_image_folder_s(tmp_path):
    from torchvision.datasets import ImageFolder

    root = make_folder(tmp_path)
    os.makedirs(os.path.join(root, "train", "a", "deep", "er"))
    test_picture(8, 8).save(os.path.join(root, "train", "a", "deep", "er", "x.JPEG"))
    with open(os.path.join(root, "train", "a", "notes.txt"), "w") as file:
        file.write("not an image")
    train = os.path.join(root, "train")
    assert list_images(train, list_classes(train)) == ImageFolder(train).samples


def test_a_class_that_val_lacks_keeps_its_number(tmp_path):
    loaders = load(make_folder(tmp_path, val=(("b", 2),)))
    assert sum((targets.tolist() for _, targets in loaders.val), []) == [1, 1]


def test_same_epoch_same_pixels_whatever_ran_before(tmp_path):
    root = make_folder(tmp_path)
    first = [images.clone() for images, _ in load(root).train.epoch(3)]
    loaders = load(root)
    list(loaders.train.epoch(0))
    random.seed(99)
    torch.manual_seed(99)
    later = list(loaders.train.epoch(3, first_step=1))
    assert all(torch.equal(images, want) for (images, _), want in zip(later, first[1:]))
    assert not torch.equal(next(loaders.train.epoch(4))[0], first[0])


def test_two_workers_give_the_same_pixels(tmp_path):
    root = make_folder(tmp_path)
    alone = [images for images, _ in load(root).train.epoch(1)]
    words = ["--data-path=" + root, "--input-size=32", "--batch-size=2", "--no-repeated-aug", "--num-workers=2"]
    loaders = datasets.build_loaders(parsing.parse(words), ONE_RANK)
    assert all(torch.equal(images, want) for (images, _), want in zip(loaders.train.epoch(1), alone))


@pytest.mark.parametrize("cores, want", [(2, 2), (48, 48), (200, 64)])
def test_the_workers_are_as_many_as_the_cores_of_the_process(tmp_path, cores, want):
    ranks = first_of(1)
    ranks.cores = cores
    loaders = datasets.build_loaders(parse("--data-path=" + make_folder(tmp_path), "--input-size=32"), ranks)
    assert loaders.train.workers == loaders.val.workers == want


def test_data_set_smaller_than_a_batch(tmp_path):
    loaders = load(make_folder(tmp_path), "--batch-size=112")
    assert len(loaders.train) == 1 and loaders.train.batch_size == 6


def test_too_few_images_for_the_processes(tmp_path):
    ranks = first_of(8)
    words = ["--data-path=" + make_folder(tmp_path), "--input-size=32", "--num-workers=0"]
    with pytest.raises(UserError, match="too few for 8 processes"):
        datasets.build_loaders(parsing.parse(words), ranks)


def remove_train(root):
    os.rename(os.path.join(root, "train"), os.path.join(root, "training"))


def remove_val(root):
    os.rename(os.path.join(root, "val"), os.path.join(root, "validation"))


def empty_a_class(root):
    os.makedirs(os.path.join(root, "train", "empty"))


def add_a_stranger(root):
    make_folder(os.path.join(root, "more"), train=(), val=(("z", 1),))
    os.rename(os.path.join(root, "more", "val", "z"), os.path.join(root, "val", "z"))


def empty_val(root):
    for name in ("a", "b"):
        for file in os.listdir(os.path.join(root, "val", name)):
            os.unlink(os.path.join(root, "val", name, file))


@pytest.mark.parametrize(
    "damage, message",
    [
        (remove_train, "no folder train/"),
        (remove_val, "no folder val/"),
        (empty_a_class, "empty holds no images"),
        (add_a_stranger, "'z' is not among"),
        (empty_val, "val holds no images"),
    ],
)
def test_damaged_folders(tmp_path, damage, message):
    root = make_folder(tmp_path)
    damage(root)
    with pytest.raises(UserError, match=message):
        load(root)


def test_missing_folder(tmp_path):
    with pytest.raises(UserError, match="--data-path .*nowhere: no such folder"):
        load(str(tmp_path / "nowhere"))


def spoil(root, part="train"):
    path = os.path.join(root, part, "a", "1.png" if part == "train" else "0.png")
    with open(path, "wb") as file:
        file.write(b"this is no picture")
    return path


def test_unreadable_image_is_named(tmp_path):
    root = make_folder(tmp_path)
    path = spoil(root)
    with pytest.raises(UserError, match="unreadable image: .*1.png.*--skip-bad-images") as caught:
        list(load(root).train.epoch(0))
    assert path in str(caught.value) and caught.value.one_rank


def test_unreadable_image_is_replaced_and_counted(tmp_path):
    root = make_folder(tmp_path)
    spoil(root)
    train = load(root, "--skip-bad-images").train
    assert [len(images) for images, _ in train.epoch(0)] == [2, 2, 2]
    assert train.skipped == 1


def test_unreadable_image_is_left_out_of_evaluation(tmp_path):
    root = make_folder(tmp_path)
    spoil(root, "val")
    val = load(root, "--skip-bad-images").val
    assert sum(len(images) for images, _ in val) == 2
    assert val.skipped == 1


def test_torch_s_handler_of_lost_loaders_does_not_stay():
    """It would raise wherever the main thread is; not even where a loader that was started otherwise has set it."""
    before = signal.getsignal(signal.SIGCHLD)
    try:
        for first in ((), iter(DataLoader([1, 2], num_workers=1))):
            loader = DataLoader([1, 2], num_workers=1)
            assert list(start(loader)) == [1, 2] and list(first) in ([], [1, 2])
            assert not getattr(signal.getsignal(signal.SIGCHLD), "__module__", "").startswith("torch.")
    finally:
        signal.signal(signal.SIGCHLD, before or signal.SIG_DFL)


def test_hidden_folders_are_no_classes(tmp_path):
    root = make_folder(tmp_path, train=(("a", 3), ("b", 3), (".ipynb_checkpoints", 1)), val=(("a", 1), ("__MACOSX", 2)))
    loaders = load(root)
    assert loaders.classes == ["a", "b"] and (loaders.train.image_count, loaders.val.image_count) == (6, 1)
    assert loaders.warnings() == [
        "%s/train: 1 hidden folder passed over: .ipynb_checkpoints; rename one that holds images to use" % root,
        "%s/val: 1 hidden folder passed over: __MACOSX; rename one that holds images to use" % root,
    ]
    for part, name in (("train", "a"), ("train", "b"), ("val", "a")):
        shutil.rmtree(os.path.join(root, part, name))
    with pytest.raises(UserError, match="train has no class folders.*; hidden folders are passed over: .ipynb_ch"):
        load(root)


def test_a_class_that_a_checkpoint_names_stays_one_though_it_is_hidden(tmp_path):
    root = make_folder(tmp_path, train=((".hidden", 2), ("a", 2)), val=((".hidden", 1), ("a", 1)))
    options = parse("--data-path=" + root, "--input-size=32", "--batch-size=2", "--num-workers=0")
    loaders = datasets.build_loaders(options, ONE_RANK, [".hidden", "a"])
    assert loaders.classes == [".hidden", "a"] and loaders.train.image_count == 4 and loaders.warnings() == []
    assert sum((targets.tolist() for _, targets in loaders.val), []) == [0, 1]


def test_one_class_alone_is_warned_of(tmp_path):
    deep = [("images/cat", 2), ("images/dog", 2)]
    root = make_folder(tmp_path / "deep", train=deep, val=deep)
    (line,) = load(root).warnings()
    assert line.startswith("%s/train has one class alone, images, which leaves nothing to learn" % root)
    assert line.endswith("too deep: move them from %s/train/images to %s/train" % (root, root))
    root = make_folder(tmp_path / "one", train=(("cat", 4),), val=(("cat", 2),))
    (line,) = load(root).warnings()
    assert line.endswith("one class alone, cat, which leaves nothing to learn: add the folders of the other classes")
    assert len(load(root, "--eval").warnings()) == 1


def test_classes_below_folders_of_the_same_names_are_warned_of(tmp_path):
    places = [("%s/%s" % (year, name), 2) for year in ("2020", "2021") for name in ("cat", "dog")]
    root = make_folder(tmp_path, train=places, val=places)
    lines = load(root).warnings()
    assert len(lines) == 2 and all("and each has cat, dog; if those are the classes" in line for line in lines)
    os.rename(os.path.join(root, "train", "2020", "cat", "0.png"), os.path.join(root, "train", "2020", "0.png"))
    assert len(load(root).warnings()) == 1


def test_files_that_are_passed_over_are_counted(tmp_path):
    root = make_folder(tmp_path)
    for part, name in (("train/a", "x.HEIC"), ("train/b", "y.heic"), ("train", "notes.txt"), ("val/a", "Thumbs.db")):
        with open(os.path.join(root, part, name), "wb"):
            pass
    first, second = load(root).warnings()
    assert first.startswith("%s/train: 3 files passed over: .heic 2, .txt 1; --extensions .heic reads such" % root)
    assert second == "%s/val: 1 file passed over: .db 1" % root


@pytest.mark.parametrize("part, name", [("train", "c"), ("val", "a"), ("val", "")])
def test_folders_of_other_files_alone_are_told_with_their_kinds(tmp_path, part, name):
    root = make_folder(tmp_path, val=(("b", 1),) if name else ())
    folder = os.path.join(root, part, name or "a")
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "x.gif"), "wb"):
        pass
    place = os.path.join(root, part, name).rstrip("/")
    with pytest.raises(UserError, match=r"%s holds no images.*; 1 file passed over: \.gif 1; --ext" % place):
        load(root)


def test_a_data_set_within_the_folder_is_named(tmp_path):
    root = make_folder(tmp_path / "archive" / "inner")
    with pytest.raises(
        UserError, match="--data-path %s: it has no folder train/; %s has: name that" % (tmp_path, root)
    ):
        load(str(tmp_path))
