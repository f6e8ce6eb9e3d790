"""A damaged index is passed over, whatever is wrong with it."""

import json
import logging
import os
import random
import struct
import zlib

import pytest
from index_caches import cached, found, is_hit, settle, touch
from torchvision.datasets import ImageFolder

from pipeline import index, shared_block

pytestmark = pytest.mark.usefixtures("heard", "hasty")


@pytest.fixture(autouse=True, params=["read", "mapped"])
def way(request, monkeypatch):
    """Read the caches, and map them, as those of many images are."""
    if request.param == "mapped":
        monkeypatch.setattr(shared_block, "MAPPED_FROM", 0)


def parts_of(path):
    """(header, offsets, class numbers, names) of a cache file."""
    with open(path, "rb") as file:
        header, data = json.loads(file.readline().decode()), file.read()
    count = header["images"]
    offsets = list(struct.unpack("<%dq" % (count + 1), data[: 8 * count + 8]))
    return (
        header,
        offsets,
        list(struct.unpack("<%di" % count, data[8 * count + 8 : 12 * count + 8])),
        data[12 * count + 8 :],
    )


def write_parts(path, header, offsets, targets, names):
    """Such a file with sizes and a checksum that are right."""
    data = struct.pack("<%dq" % len(offsets), *offsets), struct.pack("<%di" % len(targets), *targets), names
    header = dict({"images": len(targets), "bytes": len(names)}, **header)
    if "checksum" not in header:
        header["checksum"] = zlib.crc32(json.dumps(header, sort_keys=True).encode())
        for part in data:
            header["checksum"] = zlib.crc32(part, header["checksum"])
    line = json.dumps(header)
    with open(path, "wb") as file:
        file.write((line + " " * (-(len(line) + 1) % 8) + "\n").encode() + b"".join(data))


def with_parts(change):
    """A damage that changes the parts of the file, and makes sizes and checksum right again."""

    def damage(path):
        header, offsets, targets, names = parts_of(path)
        for name in ("images", "bytes", "checksum"):
            del header[name]
        write_parts(path, *change(header, offsets, targets, names))

    return damage


def with_names(*chosen):
    """Other names, of which all else is right."""

    def change(header, offsets, targets, names):
        lengths = [len(name) + 1 for name in chosen]
        offsets = [sum(lengths[:count]) for count in range(len(chosen) + 1)]
        return header, offsets, [0] * len(chosen), b"".join(name + b"\0" for name in chosen)

    return with_parts(change)


def with_bytes(change):
    def damage(path):
        with open(path, "rb") as file:
            content = file.read()
        with open(path, "wb") as file:
            file.write(change(content))

    return damage


def with_header(**more):
    return with_parts(lambda header, *rest: (dict(header, **more), *rest))


def replaced_by(make):
    return lambda path: (os.unlink(path), make(path))


DAMAGES = {
    "empty": with_bytes(lambda content: b""),
    "cut": with_bytes(lambda content: content[:-1]),
    "cut in the header": with_bytes(lambda content: content[:50]),
    "longer": with_bytes(lambda content: content + b"\0"),
    "a flipped bit in a name": with_bytes(lambda content: content[:-3] + bytes([content[-3] ^ 1]) + content[-2:]),
    "zeros": with_bytes(lambda content: bytes(len(content))),
    "no JSON": with_bytes(lambda content: b"x" + content[1:]),
    "deep JSON": with_bytes(lambda content: b"[" * 10**5 + b"\n"),
    "another JSON": with_bytes(lambda content: b"[]\n"),
    "no line": with_bytes(lambda content: b" " * 10**6),
    "another format": with_header(format=1),
    "no stamps": with_header(stamps=None),
    "odd stamps": with_header(stamps=[[1, 2]]),
    "huge": with_header(images=10**30),
    "negative": with_header(images=-1),
    "no number": with_header(images=7.0),
    "another checksum": with_header(checksum=None),
    "another name of a class": with_bytes(lambda content: content.replace(b'"classes": ["a"', b'"classes": ["c"', 1)),
    "another folder": with_header(place=["/elsewhere"]),
    "more classes": with_header(asked_classes=["a", "b", "c"]),
    "classes that are none": with_header(classes=7),
    "offsets beyond": with_parts(lambda header, offsets, *rest: (header, [*offsets[:-1], 10**12], *rest)),
    "offsets before": with_parts(lambda header, offsets, *rest: (header, [-5, *offsets[1:]], *rest)),
    "offsets in disorder": with_parts(
        lambda header, offsets, *rest: (header, [offsets[0], offsets[2], offsets[1], *offsets[3:]], *rest)
    ),
    "offsets within names": with_parts(
        lambda header, offsets, *rest: (header, [offsets[0], offsets[1] + 1, *offsets[2:]], *rest)
    ),
    "class beyond": with_parts(lambda header, offsets, targets, names: (header, offsets, [*targets[:-1], 2], names)),
    "class before": with_parts(lambda header, offsets, targets, names: (header, offsets, [-1, *targets[1:]], names)),
    "a null in a name": with_parts(
        lambda header, offsets, targets, names: (header, offsets, targets, names[:1] + b"\0" + names[2:])
    ),
    "absolute": with_names(b"/etc/x.png"),
    "absolute later": with_names(b"x.png", b"/etc/x.png"),
    "upwards": with_names(b"../../x.png"),
    "upwards later": with_names(b"x.png", b"../x.png"),
    "upwards within": with_names(b"x.png", b"in/../../../x.png"),
    "upwards at the end": with_names(b"in/.."),
    "upwards alone": with_names(b".."),
    "a folder": replaced_by(os.mkdir),
    "a pipe": replaced_by(os.mkfifo),
    "a link to nothing": replaced_by(lambda path: os.symlink("nothing", path)),
}


@pytest.mark.parametrize("damage", sorted(DAMAGES))
def test_a_damaged_cache_is_passed_over(tree, cache, damage, caplog):
    caplog.set_level(logging.INFO)
    path = cached(tree, cache)
    DAMAGES[damage](path)
    caplog.clear()
    images = found(tree, cache)
    assert images == ImageFolder(tree).samples and not is_hit(images)
    lines = [record.getMessage() for record in caplog.records]
    if os.path.isfile(path):
        assert len(lines) == 1 and path in lines[0] and lines[0].isprintable() and len(lines[0]) < 1000
    if damage != "a folder":
        index.keep(images, cache)
        assert is_hit(found(tree, cache)) and len(os.listdir(cache)) == 1


def test_names_with_dots_are_no_damage(tree, cache):
    for name in ("..png", "...png", "a..b.png", ".x.png", "in/..x.png", "in/x..png", "in../x.png"):
        touch(tree, "a", name)
    settle()
    cached(tree, cache)
    assert found(tree, cache) == ImageFolder(tree).samples


def test_whatever_a_cache_holds_the_images_are_right(tree, cache):
    path = cached(tree, cache)
    with open(path, "rb") as file:
        good = file.read()
    images, draw = ImageFolder(tree).samples, random.Random(0)
    for _ in range(300):
        content = bytearray(good)
        for _ in range(draw.choice([1, 1, 2, 5])):
            content[draw.randrange(len(content))] = draw.choice([0, 10, 32, 34, 47, 48, 57, 91, 255])
        if draw.random() < 0.2:
            del content[draw.randrange(len(content)) :]
        with open(path, "wb") as file:
            file.write(content)
        assert found(tree, cache) == images
