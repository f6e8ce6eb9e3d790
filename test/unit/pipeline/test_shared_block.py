"""Kept indexes are mapped: processes share their pages, and only name the file to one another."""

import os
import pickle
import subprocess
import sys

import numpy
import pytest
from index_caches import cached, found, is_hit, listed, path_of, settle, touch
from paths import ROOT
from processes import clean_environment
from torchvision.datasets import ImageFolder

from pipeline import index, shared_block
from pipeline.decoding import AS_PUBLISHED
from pipeline.image_index import header_of, pack_names
from pipeline.index_forms import open_index
from pipeline.passed_over import PassedOver
from pipeline.shared_block import CachedBlock, MappedBlock
from pipeline.sources import folder_source
from utils import sync_file

pytestmark = pytest.mark.usefixtures("heard", "hasty")
MANY = 4 * 10**5


@pytest.fixture
def mapped(monkeypatch):
    """Map small indexes, too."""
    monkeypatch.setattr(shared_block, "MAPPED_FROM", 0)
    if not shared_block._is_local(os.getcwd()):
        pytest.skip("NOT CHECKED: no local file system for an index that is mapped")


def memory_of(array):
    """The array that owns the memory of another."""
    while isinstance(array.base, numpy.ndarray) and not isinstance(array, numpy.memmap):
        array = array.base
    return array


def test_a_large_index_is_a_memmap_and_a_small_one_is_read(tree, cache, mapped, monkeypatch):
    cached(tree, cache)
    images = found(tree, cache)
    assert isinstance(images.block, MappedBlock) and isinstance(memory_of(images.block), numpy.memmap)
    assert images == ImageFolder(tree).samples
    for array in (images.block, images.targets, *images._arrays.values()):
        assert not array.flags.writeable and isinstance(memory_of(array), numpy.memmap)
    monkeypatch.setattr(shared_block, "MAPPED_FROM", len(images.block) + 1)
    assert type(found(tree, cache).block) is CachedBlock


def test_an_index_that_is_replaced_stays_whole_where_it_is_mapped(tree, cache, mapped):
    path = cached(tree, cache)
    images, before = found(tree, cache), ImageFolder(tree).samples
    sent = pickle.dumps(images)
    touch(tree, "a", "new.png")
    settle()
    index.keep(listed(tree), cache)
    assert images == before and found(tree, cache) == ImageFolder(tree).samples != before
    assert pickle.loads(pickle.dumps(images)) == before  # by its bytes, as its file is gone
    with pytest.raises(OSError, match="has been replaced while processes start"):
        pickle.loads(sent)
    os.unlink(path)
    assert images == before


def test_a_process_that_is_not_forked_gets_the_name_of_the_file(tree, cache, mapped):
    for number in range(300):
        touch(tree, "a", "name of an image %d.png" % number)
    settle()
    cached(tree, cache)
    images = found(tree, cache)
    sent = pickle.dumps(images)
    assert len(sent) < 1000 < len(images.block) / 5
    again = pickle.loads(sent)
    assert again == images and isinstance(again.block, MappedBlock)
    part = pickle.loads(pickle.dumps(images.block[3:50]))
    assert bytes(part) == bytes(images.block[3:50])


def test_only_the_very_same_file_is_mapped_again(tree, cache, mapped, monkeypatch):
    path = cached(tree, cache)
    identity = found(tree, cache).block.identity
    assert shared_block.map_same(identity).tobytes() == found(tree, cache).block.tobytes()
    copy = path + ".copy"
    with open(path, "rb") as file, open(copy, "wb") as other:
        other.write(file.read())
    os.utime(copy, ns=(0, identity.time_ns))
    assert shared_block.map_same(identity._replace(path=copy)) is None  # of another inode
    assert shared_block.map_same(identity._replace(path=path + ".none")) is None
    os.chmod(path, 0o666)
    assert shared_block.map_same(identity) is None
    os.chmod(path, 0o644)
    monkeypatch.setattr(shared_block, "_is_local", lambda path: False)
    assert shared_block.map_same(identity) is None


@pytest.mark.parametrize("kind, is_mapped", [("ext4", True), ("overlay", True), ("nfs4", False), ("fuse.s3fs", False)])
def test_a_file_that_the_network_may_take_away_is_read(tree, cache, mapped, monkeypatch, tmp_path, kind, is_mapped):
    cached(tree, cache)
    lines = ["1 0 8:1 / / rw,relatime - %s /dev/a rw" % ("nfs" if is_mapped else "ext4")]
    lines += ["2 1 0:9 / %s rw shared:1 - %s server:/x rw" % (os.path.dirname(cache), kind)]
    lines += ["3 1 0:7 / %s rw - tmpfs none rw" % cache[:-1]]  # whose name is the beginning of another
    (tmp_path / "mounts").write_text("\n".join(lines) + "\n")
    monkeypatch.setattr(shared_block, "_MOUNTS", str(tmp_path / "mounts"))
    images = found(tree, cache)
    assert is_hit(images) and isinstance(images.block, MappedBlock) == is_mapped
    monkeypatch.setattr(shared_block, "_MOUNTS", str(tmp_path / "none"))
    assert type(found(tree, cache).block) is CachedBlock


RANK = """
import sys
from pipeline import index, shared_block
from pipeline.image_index import ImageIndex
from pipeline.sources import folder_source
from runtime.device import Device
from runtime.distributed import Ranks
from runtime.launch_environment import Launch

rank, rendezvous, tree, cache, blind = sys.argv[1:]
shared_block.MAPPED_FROM = 0
if rank == blind:
    shared_block._is_local = lambda path: False
ranks = Ranks(Launch(int(rank), 2, int(rank), 2), Device("cpu"), "file://" + rendezvous, timeout_s=60)
sent, send = [], Ranks._send
Ranks._send = lambda ranks, status, array: sent.append(len(array)) or send(ranks, status, array)
block = shared_block.share(ranks, lambda tick: index.find(folder_source(tree), ["a", "b"], cache, tick))
print(type(block).__name__, len(block), int(block.sum()), len(sent), sum(sent) > len(block))
ranks.close()
"""


@pytest.mark.parametrize("blind, kinds, times", [("", "MappedBlock MappedBlock", 1), ("1", "MappedBlock ndarray", 2)])
def test_another_rank_maps_the_file_or_gets_the_block_where_it_does_not_see_it(
    tree, cache, tmp_path, mapped, blind, kinds, times
):
    cached(tree, cache)
    block = found(tree, cache).block
    environ = clean_environment(OMP_NUM_THREADS="1", PYTHONPATH=ROOT)
    words = [str(tmp_path / "rendezvous"), tree, cache, blind]
    command = [sys.executable, "-c", RANK]
    ranks = [subprocess.Popen(command + [rank] + words, env=environ, stdout=subprocess.PIPE) for rank in "01"]
    printed = [rank.communicate(timeout=300)[0].decode().split() for rank in ranks]
    assert " ".join(row[0] for row in printed) == kinds
    assert [row[1:3] for row in printed] == [[str(len(block)), str(int(block.sum()))]] * 2
    assert printed[0][3:] == [str(times), str(times == 2)] and printed[1][3] == "0"


GROWTH = """
import sys
from pipeline import index, shared_block
from pipeline.index_forms import open_index
from pipeline.sources import folder_source

def private_kb():
    with open("/proc/self/smaps_rollup") as file:
        return sum(int(line.split()[1]) for line in file if line.startswith("Private_Dirty"))

if sys.argv[3] == "read":
    shared_block.MAPPED_FROM = 2**62
source = folder_source(sys.argv[1])
before = private_kb()
images = open_index(index.find(source, ["a", "b"], sys.argv[2], lambda: None), source)
assert isinstance(images.block, shared_block.CachedBlock)
images.empty_classes(), images.fingerprint, images[len(images) - 1], images.targets.sum()
print((private_kb() - before) // 1024, len(images.block) // 2**20)
"""


def test_the_private_memory_of_a_process_does_not_grow_with_a_mapped_index(tree, cache, mapped):
    if not os.path.exists("/proc/self/smaps_rollup"):
        pytest.skip("NOT CHECKED: no /proc/self/smaps_rollup")
    source = folder_source(tree)
    header = dict(header_of(source, ["a", "b"], ["a", "b"], AS_PUBLISHED, PassedOver()), stamps=[])
    names = b"".join(b"n01440764/ILSVRC2012_%08d.JPEG\0" % number for number in range(MANY))
    block = pack_names(header, numpy.arange(MANY) // (MANY // 2), names)
    index.keep(open_index(block, source), cache)
    sync_file(path_of(tree, cache))  # pages that are not on the disk yet would count as those of the one that maps them
    environ = clean_environment(OMP_NUM_THREADS="1", PYTHONPATH=ROOT)
    grown = {}
    for way in ("mapped", "read"):
        done = subprocess.run([sys.executable, "-c", GROWTH, tree, cache, way], env=environ, stdout=subprocess.PIPE)
        grown[way], size = map(int, done.stdout.split())
    assert size > 15 and grown["read"] >= size and grown["mapped"] < 6, grown
