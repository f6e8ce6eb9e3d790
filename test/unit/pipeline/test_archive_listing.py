"""Archives as data: what hostile or damaged ones do, what is passed over, and the index that is kept."""

import io
import os
import tarfile
import zipfile

import pytest
from containers import add, write_shards, write_tar
from image_folders import write_images
from index_caches import is_hit, settle
from odd_pictures import encoded, pixels

from pipeline import image_index, index, listing, sources
from pipeline.index_forms import open_index
from runtime.errors import UserError

pytestmark = pytest.mark.usefixtures("heard", "hasty")
PICTURE = encoded(pixels(), "PNG")


def listed(path, classes=None, part="train"):
    return listing.list_source(sources.read_source(part, str(path)), classes)


def names_of(images):
    return [(images.classes[target], images.name_of(number)) for number, (_, target) in enumerate(images)]


def hostile_tar(path):
    """A tar whose members lead out of it, or are no files, beside two pictures."""
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        add(archive, "a/1.png", PICTURE)
        add(archive, "/etc/2.png", PICTURE)
        add(archive, "a/../../3.png", PICTURE)
        add(archive, "a/1.png", b"another")
        for name, kind in (
            ("a/link.png", tarfile.SYMTYPE),
            ("a/hard.png", tarfile.LNKTYPE),
            ("a/pipe.png", tarfile.FIFOTYPE),
        ):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            archive.addfile(member)
        device = tarfile.TarInfo("a/device.png")
        device.type, device.devmajor, device.devminor = tarfile.CHRTYPE, 1, 3
        archive.addfile(device)
        sparse = tarfile.TarInfo("b/sparse.png")
        sparse.size, sparse.pax_headers = 512, {"GNU.sparse.major": "1", "GNU.sparse.realsize": str(10 * 2**30)}
        archive.addfile(sparse, io.BytesIO(b"1\n0\n512\n".ljust(512, b"\0")))
        add(archive, "b/2.png", PICTURE)


def test_members_that_are_no_plain_files_do_nothing_but_are_named(tmp_path):
    path = str(tmp_path / "train.tar")
    hostile_tar(path)
    images = listed(path)
    assert names_of(images) == [("a", path + ":a/1.png"), ("b", path + ":b/2.png")]
    lines = " ".join(images.passed_over.lines())
    for text in (
        "2 archive members passed over (leads out of the archive), such as /etc/2.png",
        "1 archive member passed over (a duplicate), such as a/1.png",
        "1 archive member passed over (sparse), such as b/sparse.png",
        "2 archive members passed over (a link), such as a/link.png",
        "(a pipe), such as a/pipe.png",
        "(a device), such as a/device.png",
    ):
        assert text in lines, lines
    assert os.listdir(str(tmp_path)) == ["train.tar"]


def test_hidden_folders_and_other_files_are_counted(tmp_path):
    path = str(tmp_path / "train.zip")
    with zipfile.ZipFile(path, "w") as archive:
        for name in (
            "a/1.png",
            "b/1.png",
            "__MACOSX/a/._1.png",
            "a/.thumbnails/1.png",
            "readme.txt",
            "loose.png",
            "a/x.heic",
        ):
            archive.writestr(name, PICTURE)
    images = listed(path)
    assert [name for _, name in names_of(images)] == [path + ":a/1.png", path + ":b/1.png"]
    passed_over = images.passed_over
    assert (passed_over.folder_count, passed_over.loose, passed_over.kinds) == (2, 1, {".txt": 1, ".heic": 1})


@pytest.mark.parametrize("compressed", ["w:gz", "w:bz2", "w:xz"])
def test_a_compressed_tar_is_refused_with_the_way_out(tmp_path, compressed):
    path = str(tmp_path / "train.tar")
    with tarfile.open(path, compressed) as archive:
        add(archive, "a/1.png", PICTURE)
    with pytest.raises(UserError, match="^[^ ]*train.tar: it is compressed") as error:
        listed(path)
    assert len(str(error.value).splitlines()) == 1


def test_a_damaged_shard_among_others_is_named(tmp_path):
    root = write_images(str(tmp_path / "data"), train=6)
    write_shards(os.path.join(root, "train"), str(tmp_path / "train-%d.tar"))
    with open(str(tmp_path / "train-1.tar"), "r+b") as file:
        file.truncate(3000)
    with pytest.raises(UserError, match="train-1.tar: "):
        listed(str(tmp_path / "train-{0..2}.tar"))


def test_an_archive_without_its_end_mark_is_told(tmp_path):
    path = str(tmp_path / "train.tar")
    with tarfile.open(path, "w") as archive:
        add(archive, "a/1.png", PICTURE)
        add(archive, "b/2.png", PICTURE)
    with open(path, "r+b") as file:
        file.truncate(2 * (512 + -(-len(PICTURE) // 512) * 512))
    images = listed(path)
    assert len(images) == 2
    (line,) = images.passed_over.lines()
    assert "the archive has no end mark, and may be cut off" in line and "b/2.png" in line


@pytest.mark.parametrize(
    "content, message", [(b"9", "train.tar:a/1.png: label 9"), (b"owl", "label owl"), (b"\xff", "train.tar: a/1.cls")]
)
def test_a_label_that_is_none_is_named(tmp_path, content, message):
    path = str(tmp_path / "train.tar")
    with tarfile.open(path, "w") as archive:
        add(archive, "a/1.png", PICTURE)
        add(archive, "a/1.cls", content)
    with pytest.raises(UserError, match=message):
        listed(path, ["cat", "dog"])


def test_classes_that_training_has_not_are_named(tmp_path):
    root = write_images(str(tmp_path / "data"))
    write_tar(os.path.join(root, "val"), str(tmp_path / "val.tar"))
    with pytest.raises(UserError, match="the class dog is not among the training classes"):
        listed(str(tmp_path / "val.tar"), ["cat", "cow"], "val")


def test_images_without_classes_are_refused(tmp_path):
    path = str(tmp_path / "train.tar")
    with tarfile.open(path, "w") as archive:
        add(archive, "1.png", PICTURE)
    with pytest.raises(UserError, match="its 1 images lie neither in class folders, nor have they labels"):
        listed(path)


def write(path, members):
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            add(archive, name, content)
    return path


def test_an_archive_that_a_link_leads_nowhere_to_is_named(tmp_path):
    os.symlink(str(tmp_path / "gone.tar"), str(tmp_path / "train.tar"))
    with pytest.raises(UserError, match="train.tar: No such file or directory"):
        listed(tmp_path / "train.tar")


def test_both_parts_in_one_archive_are_refused(tmp_path):
    path = write(str(tmp_path / "data.tar"), {"train/a/1.png": PICTURE, "val/a/1.png": PICTURE})
    with pytest.raises(UserError, match="holds train/ and val/, but an archive is one part"):
        listed(path)


def test_labels_of_keys_that_end_at_the_first_dot_count(tmp_path):
    members = {"0.input.png": PICTURE, "0.cls": b"cat", "1.png": PICTURE, "1.seg.png": PICTURE, "1.cls": b"dog"}
    images = listed(write(str(tmp_path / "train.tar"), dict(members, **{"2.png": PICTURE, "._1.png": PICTURE})))
    names = [(name, path.rpartition(":")[2]) for name, path in names_of(images)]
    assert names == [("cat", "0.input.png"), ("dog", "1.png")]
    assert images.passed_over.odd == {
        "an image without a label": [2, "1.seg.png"],
        "a resource fork of macOS": [1, "._1.png"],
    }


def test_names_that_follow_numbers_are_told_to_need_classes_txt(tmp_path):
    known = listed(write(str(tmp_path / "train.tar"), {"0.png": PICTURE, "0.cls": b"0"})).classes
    path = write(str(tmp_path / "val.tar"), {"cat/0.png": PICTURE})
    with pytest.raises(UserError, match="class cat is not among .* numbers: name them in classes.txt"):
        listed(path, known, "val")


@pytest.fixture
def shards(tmp_path):
    root = write_images(str(tmp_path / "data"), train=6)
    write_shards(os.path.join(root, "train"), str(tmp_path / "train-%d.tar"))
    settle()
    return sources.read_source("train", str(tmp_path / "train-*.tar"))


def found(source, cache):
    return open_index(index.find(source, None, cache, lambda: None), source)


def test_the_index_of_archives_is_kept_until_one_changes(shards, cache, tmp_path):
    images = found(shards, cache)
    index.keep(images, cache)
    again = found(shards, cache)
    assert is_hit(again) and again == images and len(images) == 12
    assert sum(array.nbytes for array in images._arrays.values()) == 20 * len(images)
    names = tmp_path / "classes.txt"
    names.write_text("cat\ndog\n")
    settle()
    assert not is_hit(found(shards, cache)) and found(shards, cache).classes == ["cat", "dog"]
    names.unlink()
    assert is_hit(found(shards, cache))
    os.utime(shards.paths[1], (1, 1))
    assert not is_hit(found(shards, cache))


def test_a_shard_that_changes_while_it_is_used_is_noticed(shards):
    images = listing.list_source(shards, None)
    reader = images.reader()
    with open(shards.paths[0], "ab") as file:
        file.write(b"more")
    shard_of = {key[0]: key for key, _ in images}
    with pytest.raises(OSError, match="changed since it was listed"):
        reader.open(shard_of[0])
    assert reader.open(shard_of[1]).read()


@pytest.mark.parametrize("damage", [("shards", -1), ("shards", 3), ("targets", 2)])
def test_an_index_that_points_elsewhere_is_passed_over(shards, cache, damage):
    images = found(shards, cache)
    name, value = damage
    arrays = {key: array.copy() for key, array in images._arrays.items()}
    arrays[name][0] = value
    images.block = image_index.pack(images.header, list(arrays.values()))
    index.keep(images, cache)
    again = found(shards, cache)
    assert not is_hit(again) and len(again) == 12
