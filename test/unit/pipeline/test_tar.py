"""Tar archives: listed as tarfile lists them, and whatever else they hold is named and does nothing."""

import bz2
import gzip
import lzma
import os
import tarfile

import pytest
from made_archives import FORMATS, contents_of, field, header, listed, records, special, tar_bytes, write

from pipeline.archives.members import ArchiveError

PLAIN = [("n1/a.jpg", b"a" * 700), ("n1/empty.jpg", b""), ("n2/full.jpg", b"b" * 1024), ("c.cls", b"7")]
NAMES = {
    "of 100 bytes": "n1/" + "x" * 97,
    "of 101 bytes": "n1/" + "x" * 98,
    "split into a prefix": "d" * 120 + "/" + "x" * 90,
    "of 256 bytes": "d" * 150 + "/" + "x" * 105,
    "of 5000 bytes": "/".join(["d" * 99] * 50),
    "in other letters": "類/ärger ☃.jpg",
    "in long other letters": "類" * 90 + "/ärger.jpg",
    "not UTF-8": "n1/\udcff\udce9.jpg",
    "long and not UTF-8": "n1/\udcff" + "x" * 200,
    "with a line feed": "n1/a\nb.jpg",
    "with spaces": " n1 / a.jpg ",
    "hidden": "n1/.a/..b.jpg",
}


def as_tarfile_lists(path):
    with tarfile.open(path, errors="surrogateescape") as archive:
        return [(info.name, info.offset_data, info.size) for info in archive if info.isreg()]


@pytest.mark.parametrize("form", sorted(FORMATS))
def test_members_are_those_that_tarfile_lists(tmp_path, form):
    path = write(tmp_path, tar_bytes([special("n1", tarfile.DIRTYPE)] + PLAIN, form))
    members, odd = listed(path)
    assert [tuple(member[:3]) for member in members] == as_tarfile_lists(path) and len(members) == 4
    assert contents_of(path, members) == dict(PLAIN)
    assert not odd and not any(member.is_deflated for member in members)


@pytest.mark.parametrize("form", sorted(FORMATS))
@pytest.mark.parametrize("kind", sorted(NAMES))
def test_names_are_those_that_tarfile_reads(tmp_path, form, kind):
    name = NAMES[kind]
    try:
        content = tar_bytes([(name, b"contents"), ("n1/next.jpg", b"next")], form)
    except ValueError as error:  # it has no long names
        assert form == "ustar" and "too long" in str(error)
        return
    path = write(tmp_path, content)
    assert [tuple(member[:3]) for member in listed(path)[0]] == as_tarfile_lists(path)
    assert contents_of(path, listed(path)[0]) == {name: b"contents", "n1/next.jpg": b"next"}


def test_long_names_of_links_are_passed_over(tmp_path):
    link = special("n1/l.jpg", tarfile.SYMTYPE, linkname="x" * 300)
    members, odd = listed(write(tmp_path, tar_bytes([link] + PLAIN)))
    assert [member.name for member in members] == [name for name, _ in PLAIN]
    assert odd == [("n1/l.jpg", "a link")]


@pytest.mark.parametrize("form", ["gnu", "pax"])
def test_sizes_beyond_8_gib(tmp_path, form):
    size, path = 2**33 + 5, tmp_path / "shard.tar"
    info = tarfile.TarInfo("n1/huge.jpg")
    info.size = size
    with open(str(path), "wb") as file:
        file.write(info.tobuf(FORMATS[form]))
        begin = file.tell()
        file.seek(-(-size // 512) * 512, 1)  # a hole, which takes no room
        file.write(tar_bytes(PLAIN))
    members, _ = listed(str(path))
    assert members[0] == ("n1/huge.jpg", begin, size, False)
    assert [member.name for member in members[1:]] == [name for name, _ in PLAIN]


def test_pax_records_of_all_members(tmp_path):
    path = write(tmp_path, tar_bytes(PLAIN, "pax", {"comment": "0123456789abcdef"}))
    assert len(listed(path)[0]) == 4
    path = write(tmp_path, tar_bytes(PLAIN, "pax", {"path": "n1/one.jpg"}))
    members, odd = listed(path)
    assert [member.name for member in members] == ["n1/one.jpg"] and odd == [("n1/one.jpg", "a duplicate")] * 3


def test_headers_of_other_programs(tmp_path):
    contents = b"x".ljust(512, b"\0")

    def signed(block):
        return sum(byte - 256 if byte > 127 else byte for byte in block)

    blocks = {
        "v7.jpg": header(b"v7.jpg", field(1, 12), b"\0", bytes(8)),
        "other/prefix.jpg": header(b"prefix.jpg", field(1, 12), tail=b"other"),
        "times.jpg": header(b"times.jpg", field(1, 12), magic=b"ustar  \0", tail=b"13371337133"),  # no prefix
        "\u00e9\u00e9\u00e9.jpg": header("\u00e9\u00e9\u00e9.jpg".encode(), field(1, 12), total=signed),
        "spaces.jpg": header(b"spaces.jpg", b"          1 "),
        "twelve.jpg": header(b"twelve.jpg", b"000000000001"),
        "seven.jpg": header(b"seven.jpg", field(1, 12), b"7"),
        "wide.jpg": header(b"wide.jpg", b"\x80" + bytes(10) + b"\x01"),
    }
    blocks = {name: block + contents for name, block in blocks.items()}
    blocks["./dotted//name.jpg"] = header(b"./dotted//name.jpg", field(1, 12)) + contents
    path = write(tmp_path, b"".join(blocks.values()) + bytes(1024))
    expected = {name.replace("./dotted//", "dotted/"): b"x" for name in blocks}
    assert contents_of(path, listed(path)[0]) == expected and not listed(path)[1]


def test_an_archive_without_an_end_mark_ends_with_the_file(tmp_path):
    whole = tar_bytes(PLAIN)
    end = -(-len(whole.rstrip(b"\0")) // 512) * 512
    assert [member.name for member in listed(write(tmp_path, whole[:end]))[0]] == [name for name, _ in PLAIN]


def test_a_tar_of_tars(tmp_path):
    """ILSVRC2012_img_train.tar is one: its members lie in the outer file."""
    inner = {name: tar_bytes([(name + "_1.JPEG", name.encode()), ("./b/2.JPEG", b"2")]) for name in ("n01", "n02")}
    outer = [("train/%s.tar" % name, content) for name, content in inner.items()] + [("LICENSE", b"free")]
    path = write(tmp_path, tar_bytes(outer))
    members, odd = listed(path)
    assert contents_of(path, members) == {
        "train/n01/n01_1.JPEG": b"n01",
        "train/n01/b/2.JPEG": b"2",
        "train/n02/n02_1.JPEG": b"n02",
        "train/n02/b/2.JPEG": b"2",
        "LICENSE": b"free",
    }
    assert not odd


def test_a_tar_in_a_tar_in_a_tar_is_a_file(tmp_path):
    inner = tar_bytes([("n01.tar", tar_bytes(PLAIN))])
    assert [member.name for member in listed(write(tmp_path, tar_bytes([("a.tar", inner)])))[0]] == ["a/n01.tar"]


def test_an_inner_tar_of_no_bytes_is_named(tmp_path):
    assert listed(write(tmp_path, tar_bytes([("n01.tar", b"")]))) == ([], [("n01.tar", "an empty archive")])


def test_what_is_odd_in_an_inner_tar_has_its_name(tmp_path):
    inner = tar_bytes([special("l", tarfile.SYMTYPE, linkname="/etc"), ("../e", b"1"), ("d", b""), ("d", b"2")])
    _, odd = listed(write(tmp_path, tar_bytes([("n01.TAR", inner)])))
    assert odd == [("n01/l", "a link"), ("n01/../e", "leads out of the archive"), ("n01/d", "a duplicate")]


@pytest.mark.parametrize(
    "inner, why",
    [
        (gzip.compress(tar_bytes(PLAIN)), "it is compressed by gzip"),
        (tar_bytes(PLAIN)[:1000], "cut off at byte 1512"),
        (b"no archive" * 99, "the header at byte 512 has a wrong checksum"),
    ],
)
def test_an_inner_tar_that_cannot_be_listed_is_named(tmp_path, inner, why):
    with pytest.raises(ArchiveError, match=r"^its member n01\.tar cannot be listed: .*%s" % why):
        listed(write(tmp_path, tar_bytes([("n01.tar", inner)])))


@pytest.mark.parametrize(
    "compress, tool", [(gzip.compress, "gunzip"), (bz2.compress, "bunzip2"), (lzma.compress, "unxz")]
)
def test_a_compressed_archive_is_refused_with_the_way_out(tmp_path, compress, tool):
    with pytest.raises(ArchiveError, match="allows no access to single images: unpack it once, such as by %s$" % tool):
        listed(write(tmp_path, compress(tar_bytes(PLAIN))))


def test_zstandard_is_known_by_its_sign(tmp_path):
    with pytest.raises(ArchiveError, match="compressed by zstd"):
        listed(write(tmp_path, b"\x28\xb5\x2f\xfd" + bytes(600)))


@pytest.mark.parametrize(
    "content, why",
    [(b"", "it is empty"), (b"no archive" * 99, "neither a tar nor a zip"), (b"short", "neither a tar nor a zip")],
)
def test_what_is_no_archive(tmp_path, content, why):
    with pytest.raises(ArchiveError, match=why):
        listed(write(tmp_path, content))


def test_an_archive_of_nothing(tmp_path):
    assert listed(write(tmp_path, tar_bytes([]))) == ([], [])


def test_what_is_no_regular_file_is_named_and_does_nothing(tmp_path):
    hostile = [
        special("link", tarfile.SYMTYPE, linkname="/etc/passwd"),
        special("hard", tarfile.LNKTYPE, linkname="n1/a.jpg"),
        special("tty", tarfile.CHRTYPE, devmajor=5),
        special("disk", tarfile.BLKTYPE, devmajor=8),
        special("pipe", tarfile.FIFOTYPE),
        special("volume", b"V"),
        ("/tmp/absolute.jpg", b"1"),
        ("../above.jpg", b"2"),
        ("n1/../../above.jpg", b"3"),
        ("n1/..", b"4"),
        ("", b"5"),
        ("./.", b"6"),
        ("n1/a.jpg", b"another"),
        ("./n1//a.jpg", b"another"),
    ]
    path = write(tmp_path, tar_bytes(PLAIN + hostile))
    members, odd = listed(path)
    assert contents_of(path, members) == dict(PLAIN)
    outside, nameless = "leads out of the archive", "without a name that a file can have"
    expected = ["a link", "a link", "a device", "a device", "a pipe", "of an unknown type"]
    expected += [outside] * 4 + [nameless] * 2 + ["a duplicate"] * 2
    assert [what for _, what in odd] == expected
    assert [name for name, _ in odd[:-2]] == ["link", "hard", "tty", "disk", "pipe", "volume"] + [
        name for name, _ in hostile[6:-2]
    ]
    assert [entry.name for entry in tmp_path.iterdir()] == ["shard.tar"]


def test_a_pax_name_with_a_null_byte(tmp_path):
    content = records(path=b"n1/a\0b.jpg") + header(b"n1/a") + tar_bytes(PLAIN[2:])
    members, odd = listed(write(tmp_path, content))
    assert len(members) == 2 and odd == [("n1/a\0b.jpg", "without a name that a file can have")]


def test_sparse_members_are_named(tmp_path):
    """GNU tar -S writes 10 GB of zeros as a few bytes, in one of four forms."""
    wide = b"\x80" + (10 * 2**30).to_bytes(11, "big")
    chunk = field(0, 12) + field(512, 12)
    old = header(b"old", field(512, 12), b"S", b"ustar  \0", tail=(bytes(41) + chunk * 4 + b"\x01" + wide))
    content = old + chunk.ljust(504, b"\0") + b"\x01" + bytes(7) + bytes(512) + b"1" * 512
    for version in (b"0", b"1"):
        content += records(GNU__sparse__major=version, GNU__sparse__name=b"n1/" + version, size=b"512")
        content += header(b"GNUSparseFile.1/x", field(0, 12)) + b"1" * 512
    members, odd = listed(write(tmp_path, content + tar_bytes(PLAIN)))
    assert [member.name for member in members] == [name for name, _ in PLAIN]
    assert odd == [("old", "sparse"), ("n1/0", "sparse"), ("n1/1", "sparse")]


def test_an_archive_that_is_a_stream_is_not_waited_for(tmp_path):
    os.mkfifo(str(tmp_path / "shard.tar"))
    with pytest.raises(OSError, match="not a regular file"):
        listed(str(tmp_path / "shard.tar"))


def test_only_headers_are_read(tmp_path, monkeypatch):
    """An archive of terabytes is listed by 512 bytes a member."""
    path = write(tmp_path, tar_bytes([("n1/%d.jpg" % number, bytes(50000)) for number in range(40)]))
    read, pread = [], os.pread
    monkeypatch.setattr(os, "pread", lambda *arguments: read.append(arguments[1]) or pread(*arguments))
    assert len(listed(path)[0]) == 40
    assert sum(read) < 40 * 512 + 2**14
