"""The same command on the same images gives the same bits, in whatever form the images lie."""

import os

import pytest
from containers import CONTAINERS
from image_folders import write_images
from processes import kill_after
from small_runs import assert_same_weights
from warm_runs import OPTIONS, RANKS, references, run_main, saving_words_for, start_main

from checkpoints import store


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """The folder of each form of one data set, by name."""
    root = tmp_path_factory.mktemp("containers")
    places = {"folder": write_images(str(root / "folder"), train=24)}
    for name, make in CONTAINERS.items():
        places[name] = str(root / name.replace(" ", "-"))
        make(places["folder"], places[name])
    return places


@pytest.fixture(scope="module")
def reference(places, tmp_path_factory):
    """reference(ranks) -> the output folder of an undisturbed run on the folders of images."""
    return references(places["folder"], tmp_path_factory)


@pytest.mark.parametrize(
    "name, ranks, workers",
    [
        ("csv", "1", 2),
        ("txt", "2", 0),
        ("tar", "1", 4),
        ("tar with a folder around", "2 virtual", 0),
        ("shards", "2", 2),
        ("tars of tars", "1", 0),
        ("zip", "2 virtual", 2),
        ("deflated zip", "1", 0),
    ],
)
def test_a_run_on_each_form_gives_the_same_bits(places, reference, tmp_path, name, ranks, workers):
    nproc, more = RANKS[ranks]
    out = str(tmp_path / "out")
    status, said, err = run_main(saving_words_for(places[name], out, "--num-workers=%d" % workers, *more), nproc)
    assert status == 0 and not err, err
    assert_same_weights(out, reference(ranks))
    form = "list" if name in ("csv", "txt") else "archive"
    assert "data          %s" % form in said or "data          3 %ss" % form in said, said


@pytest.mark.parametrize("first, second, third", [("folder", "shards", "csv"), ("shards", "zip", "folder")])
def test_a_run_that_is_killed_resumes_on_another_form(places, reference, tmp_path, first, second, third):
    out = str(tmp_path / "out")
    for name, times in ((first, 2), (second, 2)):
        words = saving_words_for(places[name], out, "--num-workers=2")
        kill_after(start_main(words), os.path.join(out, store.LATEST), times)
    status, _, err = run_main(saving_words_for(places[third], out))
    assert status == 0, err
    assert_same_weights(out, reference("1"))


def test_an_evaluation_on_each_form_counts_the_same(places, reference, tmp_path):
    reports = {}
    for name in ("folder", "jsonl", "shards with names", "tars of tars"):
        path = str(tmp_path / (name + ".json"))
        words = ["--data-path=" + places[name], "--eval", "--resume=" + reference("1"), "--eval-json=" + path]
        status, _, err = run_main([*words, *OPTIONS])
        assert status == 0, err
        with open(path) as file:
            reports[name] = [line for line in file if "acc" in line or "loss" in line]
    assert len(set(map(tuple, reports.values()))) == 1 and reports["folder"]
