"""Trainings by small_main.py on an S3 server: the bits of a local run, whatever is killed, emptied or away."""

import os
import shutil

import pytest
from containers import CONTAINERS
from image_folders import write_images
from object_store import reason_to_skip
from parquet_data import write_parquet_folder
from processes import kill_after, wait_for
from small_runs import assert_same_weights
from warm_runs import RANKS, references, run_main, saving_words_for, start_main

from checkpoints import store
from storage.cache import FOLDER

AT_ONCE = {"AWS_MAX_ATTEMPTS": "1"}  # botocore's own, before ours
pytestmark = pytest.mark.skipif(bool(reason_to_skip()), reason=reason_to_skip() or "-")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_images(str(tmp_path_factory.mktemp("remote") / "folder"), train=24)


@pytest.fixture(scope="module")
def s3(data, tmp_path_factory, object_store_server):
    """The server with the data set in several forms, a folder for each."""
    object_store_server.clear()
    root = tmp_path_factory.mktemp("forms")
    for name in ("shards", "zip"):
        CONTAINERS[name](data, str(root / name))
        object_store_server.put_folder(str(root / name), name)
    object_store_server.put_folder(write_parquet_folder(data, str(root / "parquet")), "parquet")
    object_store_server.put_folder(data, "folder")
    return object_store_server


@pytest.fixture(scope="module")
def reference(data, tmp_path_factory):
    """reference(ranks) -> the output folder of an undisturbed run on the folders of this machine."""
    return references(data, tmp_path_factory)


@pytest.mark.parametrize(
    "form, ranks, workers, cached",
    [("shards", "2", 2, True), ("shards", "1", 0, False), ("zip", "2 virtual", 2, False), ("parquet", "1", 2, True)]
    + [("folder", "1", 2, False)],
)
def test_a_run_gives_the_bits_of_a_local_one(s3, reference, tmp_path, form, ranks, workers, cached):
    if form == "parquet":
        pytest.importorskip("pyarrow.parquet", reason="NOT CHECKED: Parquet, without pyarrow")
    nproc, more = RANKS[ranks]
    more = [*more, "--data-cache=%s" % (tmp_path / "cache")] if cached else more
    words = saving_words_for(s3.url(form), str(tmp_path / "out"), "--num-workers=%d" % workers, *more)
    status, said, err = run_main(words, nproc, s3.environ)
    assert status == 0 and not err, err
    assert_same_weights(str(tmp_path / "out"), reference(ranks))
    assert cached == os.path.isdir(str(tmp_path / "cache" / FOLDER))


def test_a_run_is_killed_and_its_cache_emptied(s3, reference, tmp_path):
    out, cache = str(tmp_path / "out"), str(tmp_path / "cache")
    words = saving_words_for(s3.url("shards"), out, "--num-workers=2", "--data-cache=" + cache)
    kill_after(start_main(words, 1, s3.environ), os.path.join(out, store.LATEST), 2)
    kill_after(start_main(words, 1, s3.environ), os.path.join(out, store.LATEST), 2)
    shutil.rmtree(cache)
    status, _, err = run_main(words, 1, s3.environ)
    assert status == 0, err
    assert_same_weights(out, reference("1"))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_server_that_is_away_for_a_while_only_delays_a_run(s3, reference, tmp_path, workers):
    out = str(tmp_path / "out")
    words = saving_words_for(s3.url("shards"), out, "--num-workers=%d" % workers)
    run = start_main(words, 1, dict(s3.environ, **AT_ONCE))
    wait_for(lambda: os.path.exists(os.path.join(out, store.LATEST)) or run.poll() is not None)
    s3.stop()
    wait_for(lambda: "it is tried again, for up to 1800 s" in run.read() or run.poll() is not None)
    s3.start()
    _, err = run.communicate(timeout=300)
    assert run.returncode == 0, err
    assert_same_weights(out, reference("1"))


def test_a_server_that_stays_away_ends_a_run_with_one_line_and_nothing_is_lost(s3, reference, tmp_path):
    out = str(tmp_path / "out")
    words = saving_words_for(s3.url("shards"), out, "--num-workers=2", "--dist-timeout=3")
    run = start_main(words, 1, dict(s3.environ, **AT_ONCE))
    wait_for(lambda: os.path.exists(os.path.join(out, store.LATEST)) or run.poll() is not None)
    s3.stop()
    try:
        _, err = run.communicate(timeout=300)
    finally:
        s3.start()
    assert run.returncode == 1 and "--dist-timeout" in err and len(err.splitlines()) == 1, err
    status, _, err = run_main(saving_words_for(s3.url("shards"), out), 1, s3.environ)
    assert status == 0, err
    assert_same_weights(out, reference("1"))
