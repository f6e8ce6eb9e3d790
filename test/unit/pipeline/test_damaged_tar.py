"""Tar archives that are damaged, cut off or made to harm: fewer members, or one line that says why."""

import os
import random

import pytest
from made_archives import field, header, listed, records, tar_bytes, write

from pipeline.archives.members import ArchiveError, list_members

PLAIN = [("n1/a.jpg", b"a" * 700), ("n1/empty.jpg", b""), ("n2/full.jpg", b"b" * 1024), ("c.cls", b"7")]


@pytest.mark.parametrize("kind", [b"L", b"x", b"g"])
def test_a_header_bomb_is_not_read(tmp_path, kind):
    path = tmp_path / "shard.tar"
    with open(str(path), "wb") as file:
        file.write(header(b"bomb", b"\x80" + (2**36).to_bytes(11, "big"), kind))
        file.truncate(2**36 + 2048)
    with pytest.raises(ArchiveError, match="a name or header of 68719476736 bytes at byte 512"):
        listed(str(path))


@pytest.mark.parametrize(
    "content, why",
    [
        (header(b"a", b"-0000000001\0") + bytes(1024), "the header at byte 0 has no right size"),
        (header(b"a", b"\xff" * 12) + bytes(1024), "the header at byte 0 has no right size"),
        (header(b"a", b"what is it?\0") + bytes(1024), "the header at byte 0 has no right size"),
        (header(b"a", b"\x80" + b"\x7f" * 11) + bytes(1024), "cut off at byte 1536: a has [0-9]+ bytes from byte 512"),
        (header(b"\n", field(9**9, 12)) + bytes(1024), r"\$'\\n' has 387420489 bytes"),
        (records(size=b"-5") + header(b"a") + bytes(1024), "the pax header of a has no right size"),
        (records(size=b"9" * 400) + header(b"a") + bytes(1024), "the pax header of a has no right size"),
        (records(path=b"a").replace(b"path=", b"path:") + header(b"a") + bytes(1024), None),
        (records(path=b"a").replace(b"10 path", b"99 path") + header(b"a") + bytes(1024), "within a pax header"),
        (records(path=b"a").replace(b"10 path", b"ab path") + header(b"a") + bytes(1024), "within a pax header"),
        (records(path=b"a"), "a member should follow its name"),
        (
            tar_bytes(PLAIN) + tar_bytes(PLAIN),
            "it continues at byte 10240, after its end mark at byte [0-9]+: .* joined by cat",
        ),
    ],
)
def test_damage_is_named(tmp_path, content, why):
    path = write(tmp_path, content)
    if why is None:
        assert [member.name for member in listed(path)[0]] == ["a"]
        return
    with pytest.raises(ArchiveError, match=why) as caught:
        listed(path)
    assert str(caught.value).isprintable()


def hostile_mixture():
    content = records(path=b"n1/" + b"p" * 120, mtime=b"1.5") + header(b"n1/p", field(3, 12)) + b"abc".ljust(512, b"\0")
    return content + tar_bytes([("n1/" + "x" * 120, b"12345"), ("in.tar", tar_bytes([("a", b"1")])[:1536])] + PLAIN[:2])


def attempt(path, size):
    """Return the names of the members; None for an ArchiveError, whose text is one line."""
    try:
        members, odd = listed(path)
    except ArchiveError as error:
        assert str(error).isprintable() and len(str(error)) < 1000
        return None
    assert all(0 <= member.offset <= member.offset + member.size <= size for member in members)
    return [member.name for member in members]


def test_an_archive_cut_off_anywhere_has_fewer_members_or_an_error(tmp_path):
    whole = hostile_mixture()
    path = write(tmp_path, whole)
    names = attempt(path, len(whole))
    end, errors = len(whole.rstrip(b"\0")), 0
    for length in reversed(range(end)):
        os.truncate(path, length)
        found = attempt(path, length)
        errors += found is None
        assert found is None or (found == names[: len(found)] and length % 512 == 0)
    assert errors > end * 0.9


def test_bytes_that_have_changed_end_in_a_listing_or_an_error(tmp_path):
    whole, chance = hostile_mixture(), random.Random(0)
    errors = 0
    for _ in range(500):
        content = bytearray(whole)
        for _ in range(chance.choice([1, 1, 1, 5, 50])):
            content[chance.randrange(len(content))] = chance.randrange(256)
        errors += attempt(write(tmp_path, bytes(content)), len(content)) is None
    assert errors > 100


def test_headers_with_a_right_checksum_and_any_other_bytes(tmp_path):
    chance, errors = random.Random(1), 0
    for _ in range(500):
        block = bytearray(header(b"n1/a.jpg", field(100, 12), chance.choice([b"0", b"x", b"L", b"S", b"g", b"1"])))
        for _ in range(chance.randrange(8)):
            block[chance.choice([0, 3, 124, 125, 135, 156, 257, 345, 386, 482, chance.randrange(512)])] = (
                chance.randrange(256)
            )
        block[148:156] = b"%06o\0 " % (sum(block) - sum(block[148:156]) + 256)
        content = bytes(block) + b"12 path=a/b\n12 size=512\n".ljust(512, b"\0") + tar_bytes(PLAIN)
        errors += attempt(write(tmp_path, content), len(content)) is None
    assert 0 < errors < 500


def test_a_file_that_becomes_shorter_while_it_is_listed(tmp_path):
    path = write(tmp_path, tar_bytes(PLAIN))
    members = list_members(path)
    next(members)
    with open(path, "r+b") as file:
        file.truncate(1536)
    with pytest.raises(ArchiveError, match="it became shorter while it was listed"):
        list(members)
