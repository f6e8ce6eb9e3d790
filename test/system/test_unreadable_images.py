"""An image that cannot be read ends a run with all that it has trained so far, and the repaired run has the result of
an undisturbed one."""

import os
import shutil

import pytest
from image_folders import write_images
from small_runs import assert_same_result
from warm_runs import run_main, words_for

from checkpoints import loading, store
from pipeline.listing import list_images
from pipeline.samplers import RASampler

STEP = 4  # before which the run ends


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """undisturbed(nproc, *options): (images, output folder) of a whole run."""
    root = tmp_path_factory.mktemp("undisturbed")
    data = write_images(str(root / "images"), train=24)
    folders = {}

    def run(nproc, *options):
        if (nproc, options) not in folders:
            folder = str(root / ("out%d" % len(folders)))
            status, _, err = run_main(words_for(data, folder, *options), nproc)
            assert status == 0, err
            folders[nproc, options] = folder
        return data, folders[nproc, options]

    return run


def copy_with_broken(data, target, part, number):
    """Copy the images, make one of `part` unreadable; return (the copy, the function that repairs it)."""
    shutil.copytree(data, target)
    folder = os.path.join(target, part)
    path = list_images(folder, sorted(os.listdir(folder)))[number][0]
    with open(path, "wb") as file:
        file.write(b"broken")
    return target, lambda: shutil.copy(path.replace(target, data, 1), path)


def trained_at(nproc, position):
    """Return the number of the image at a `position` of the last rank's first epoch."""
    sampler = RASampler(range(48), nproc, nproc - 1, repeats=1)
    return int(sampler.indices()[position])


@pytest.mark.parametrize("nproc, options", [(1, ()), (2, ()), (1, ("--virtual-ranks=2",))])
def test_the_steps_before_an_unreadable_image_are_saved(undisturbed, tmp_path, nproc, options):
    data, reference = undisturbed(nproc, *options)
    ranks = 2 if options else nproc
    copy, repair = copy_with_broken(data, str(tmp_path / "images"), "train", trained_at(ranks, 4 * STEP + 1))
    words = words_for(copy, str(tmp_path / "out"), *options)
    status, _, err = run_main(words, nproc)
    assert status == 2 and "unreadable image: " in err and "Traceback" not in err
    loaded = loading.load(str(tmp_path / "out" / store.LATEST))
    assert (loaded["epoch"], loaded["step"]) == (-1, STEP)
    repair()
    status, _, err = run_main(words, nproc)
    assert status == 0, err
    assert_same_result(str(tmp_path / "out"), reference)


@pytest.mark.parametrize("nproc", [1, 2])
def test_the_epoch_before_an_unreadable_validation_image_is_saved(undisturbed, tmp_path, nproc):
    data, reference = undisturbed(nproc)
    copy, repair = copy_with_broken(data, str(tmp_path / "images"), "val", 1)
    words = words_for(copy, str(tmp_path / "out"))
    status, _, err = run_main(words, nproc)
    assert status == 2 and "unreadable image: " in err and "Traceback" not in err
    loaded = loading.load(str(tmp_path / "out" / store.LATEST))
    assert (loaded["epoch"], loaded["step"]) == (-1, 12 // nproc) and "stats" in loaded["epoch_state"]
    repair()
    status, _, err = run_main(words, nproc)
    assert status == 0, err
    assert_same_result(str(tmp_path / "out"), reference)


def test_within_an_epoch_neither_its_images_nor_their_order_may_change(undisturbed, tmp_path):
    data, _ = undisturbed(1)
    copy, repair = copy_with_broken(data, str(tmp_path / "images"), "train", trained_at(1, 4 * STEP + 1))
    words = words_for(copy, str(tmp_path / "out"))
    assert run_main(words)[0] == 2
    repair()
    for more, named in (["--seed=7"], "--seed 0"), (["--repeated-aug"], "--no-repeated-aug"):
        status, _, err = run_main([*words, *more])
        assert status == 2 and "stopped within an epoch: resume with its " + named in err
    name = os.path.join(copy, "train", sorted(os.listdir(os.path.join(copy, "train")))[0])
    shutil.copy(os.path.join(name, sorted(os.listdir(name))[0]), os.path.join(name, "new.png"))
    status, _, err = run_main(words)
    assert status == 2 and "stopped within an epoch over 48 images" in err and "now holds 49" in err
