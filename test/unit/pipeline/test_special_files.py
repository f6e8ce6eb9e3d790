"""What is no regular file, may not be read, or leads in a circle is named, and waited for by nobody."""

import os
import shutil
import socket
import stat
import tempfile

import pytest
from loaders import KEY, folder_of
from odd_pictures import decodable, undecodable, write
from permissions import nobody

from pipeline import reading
from pipeline.layout import list_classes
from pipeline.listing import list_images
from pipeline.samplers import Position
from runtime.errors import UserError
from utils import open_regular

pytestmark = pytest.mark.usefixtures("no_hang")
GOOD, BAD = decodable(), undecodable()


def pipe(path):
    os.mkfifo(path)


def device(path):
    try:
        os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 5))
        open(path, "rb").close()
    except OSError as error:
        pytest.skip("no device node can be made and opened here: %s" % error)


def unix_socket(path):
    made = socket.socket(socket.AF_UNIX)
    before = os.getcwd()
    os.chdir(os.path.dirname(path))  # the address may be 107 bytes long
    try:
        made.bind(os.path.basename(path))
    finally:
        os.chdir(before)
        made.close()


def link_to_nothing(path):
    os.symlink("nothing", path)


def link_to_itself(path):
    os.symlink(os.path.basename(path), path)


def link_to_a_pipe(path):
    os.mkfifo(path + ".pipe")
    os.symlink(path + ".pipe", path)


SPECIAL = {
    pipe: "not a regular file",
    device: "not a regular file",
    unix_socket: "No such device or address",
    link_to_nothing: "No such file or directory",
    link_to_itself: "Too many levels of symbolic links",
    link_to_a_pipe: "not a regular file",
}


@pytest.mark.parametrize("make", sorted(SPECIAL, key=str), ids=lambda make: make.__name__)
def test_what_is_no_file_is_named(tmp_path, make):
    folder = write(tmp_path / "a", {})
    path = os.path.join(folder, "x.jpg")
    make(path)
    assert list_images(str(tmp_path), ["a"]) == [(path, 0)]
    for is_train in (True, False):
        sample = folder_of(path, is_train)[Position(0, KEY) if is_train else 0]
        assert sample.bad_files == ["%s (%s)" % (path, SPECIAL[make])]


def test_postscript_is_not_handed_to_ghostscript(tmp_path):
    path = os.path.join(write(tmp_path / "a", {"x.jpg": BAD["postscript.jpg"]}), "x.jpg")
    assert folder_of(path)[0].bad_files == ["%s (PostScript is not read)" % path]


def test_a_picture_is_read_without_haste(tmp_path):
    path = os.path.join(write(tmp_path, {"x.png": GOOD["dot.png"]}), "x.png")
    with open_regular(path) as file:
        assert os.get_blocking(file.fileno()) and not os.get_inheritable(file.fileno())


def test_a_file_without_a_regular_one_behind_is_closed(tmp_path):
    pipe(str(tmp_path / "x.jpg"))
    before = os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else None
    for _ in range(3):
        with pytest.raises(OSError, match="not a regular file"):
            reading.read_image(str(tmp_path / "x.jpg"))
    if before:
        assert len(os.listdir("/proc/self/fd")) == len(before)


def test_a_folder_that_is_called_a_picture_is_walked_as_imagefolder_walks_it(tmp_path):
    from torchvision.datasets import ImageFolder

    write(tmp_path / "t" / "a" / "x.jpg", {"inner.jpg": GOOD["plain.jpg"]})
    write(tmp_path / "t" / "b.png", {"inner.jpg": GOOD["plain.jpg"], "-rf.png": GOOD["one_bit.png"]})
    write(tmp_path / "elsewhere" / "deep", {"other.jpg": GOOD["plain.jpg"]})
    os.symlink(str(tmp_path / "elsewhere"), str(tmp_path / "t" / "a" / "link"))
    os.symlink(str(tmp_path / "elsewhere"), str(tmp_path / "t" / "c"))
    os.symlink(str(tmp_path / "t" / "b.png" / "inner.jpg"), str(tmp_path / "t" / "a" / "link.jpg"))
    root = str(tmp_path / "t")
    listed = list_images(root, list_classes(root))
    assert listed == ImageFolder(root).samples and len(listed) == 6
    assert all(folder_of(path)[0].pixels is not None for path, _ in listed)


@pytest.fixture
def open_folder():
    """A folder that everyone may read; pytest's lie in one that is private."""
    folder = tempfile.mkdtemp()
    os.chmod(folder, 0o755)
    yield folder
    shutil.rmtree(folder)


def test_permissions(open_folder):
    folder = write(os.path.join(open_folder, "a"), {"good.jpg": GOOD["plain.jpg"], "secret.jpg": GOOD["plain.jpg"]})
    os.chmod(os.path.join(folder, "secret.jpg"), 0)
    write(os.path.join(folder, "inner"), {"good.jpg": GOOD["plain.jpg"]})
    with nobody():
        assert folder_of(os.path.join(folder, "good.jpg"))[0].pixels is not None
        assert folder_of(os.path.join(folder, "secret.jpg"))[0].bad_files[0].endswith("secret.jpg (Permission denied)")
        assert len(list_images(open_folder, ["a"])) == 3
    os.chmod(os.path.join(folder, "inner"), 0)
    with nobody(), pytest.raises(UserError, match="a/inner cannot be listed: Permission denied"):
        list_images(open_folder, ["a"])
    os.chmod(folder, 0)
    with nobody(), pytest.raises(UserError, match="a cannot be listed: Permission denied"):
        list_classes(folder)
    os.chmod(folder, 0o755)


def make_loops(root):
    """{link: what it links to}, each of which closes a circle, in folders of their own below `root`."""
    links = {
        "own/a/inner/up": "own/a",
        "class/up": "class",
        "above/a/up": "",
        "out/a/side": "elsewhere",
        "pair/a/there": "pair_there",
    }
    for link in links:
        write(os.path.join(root, link.split("/")[0], "a"), {"x.png": GOOD["dot.png"]})
        os.makedirs(os.path.dirname(os.path.join(root, link)), exist_ok=True)
    for folder, back in (("elsewhere", "elsewhere"), ("pair_there", "pair/a")):
        os.mkdir(os.path.join(root, folder))
        os.symlink(os.path.join(root, back), os.path.join(root, folder, "back"))
    for link, target in links.items():
        os.symlink(os.path.join(root, target), os.path.join(root, link))
    return links


@pytest.mark.parametrize(
    "part, link, target",
    [
        ("own", "own/a/inner/up", "own/a"),
        ("class", "class/up", "class"),
        ("above", "above/a/up", ""),
        ("out", "out/a/side/back", "elsewhere"),
        ("pair", "pair/a/there/back", "pair/a"),
    ],
)
@pytest.mark.parametrize("slash", ["", "/"])
def test_a_link_that_leads_in_a_circle_is_named(tmp_path, monkeypatch, part, link, target, slash):
    root = os.path.realpath(str(tmp_path))
    make_loops(root)
    for top in (root + "/" + part + slash, part + slash):
        monkeypatch.chdir(root)
        with pytest.raises(UserError) as caught:
            list_images(top, list_classes(top))
        ends = [os.path.join(os.path.dirname(top.rstrip("/")), link), os.path.join(root, target).rstrip("/")]
        assert str(caught.value) == "%s is a link back to %s: remove it" % tuple(ends)


def test_a_class_folder_that_links_to_itself_is_named(tmp_path):
    write(tmp_path / "a", {"x.png": GOOD["dot.png"]})
    link_to_itself(str(tmp_path / "b"))
    with pytest.raises(UserError, match="/b cannot be listed: Too many levels of symbolic links"):
        list_classes(str(tmp_path))
