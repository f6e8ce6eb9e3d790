"""Zip archives: listed as zipfile lists them, and whatever else they hold is named and does nothing."""

import io
import os
import random
import stat
import struct
import zipfile

import pytest
from made_archives import contents_of, listed, write, zip_bytes

from pipeline.archives.members import ArchiveError
from pipeline.readers.archives import ArchiveReader

PLAIN = [("n1/a.jpg", b"a" * 700), ("n1/empty.jpg", b""), ("n2/full.jpg", b"b" * 1024), ("c.cls", b"7")]


def read_all(path, members):
    """Return {name: contents}, deflated or not, as a data set reads them."""
    status = os.stat(path)
    reader = ArchiveReader([path], [(status.st_size, status.st_mtime_ns)])
    return {
        member.name: reader.open((0, ~member.offset if member.is_deflated else member.offset, member.size)).read()
        for member in members
    }


def info_of(name, **fields):
    info = zipfile.ZipInfo(name)
    for field, value in fields.items():
        setattr(info, field, value)
    return info


def unix(name, mode):
    return info_of(name, create_system=3, external_attr=mode << 16)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_members_are_those_that_zipfile_reads(tmp_path, method):
    content = zip_bytes([("n1/", b"")] + PLAIN + [("n1/long" * 9000, b"1"), ("./n3//b.jpg", b"2")], method)
    path = write(tmp_path, content)
    members, odd = listed(path)
    expected = dict(PLAIN, **{"n1/long" * 9000: b"1", "n3/b.jpg": b"2"})
    assert read_all(path, members) == expected and not odd
    assert [member.name for member in members] == list(expected)
    assert {member.is_deflated for member in members if member.size} == {method == zipfile.ZIP_DEFLATED}


@pytest.mark.parametrize("name", ["類/ärger ☃.jpg", "n1/caf\u00e9.jpg", "a\nb.jpg", "n1\\a.jpg"])
def test_names_are_those_that_zipfile_reads(tmp_path, name):
    path = write(tmp_path, zip_bytes([(name, b"1")]))
    with zipfile.ZipFile(path) as archive:
        assert [member.name for member in listed(path)[0]] == archive.namelist() == [name]


def test_names_of_old_programs(tmp_path):
    """Bytes that are not ASCII are of code page 437 unless a flag says that they are UTF-8."""
    path = write(tmp_path, zip_bytes([("n1/caf_.jpg", b"1")]).replace(b"caf_", b"caf\x82"))
    with zipfile.ZipFile(path) as archive:
        assert [member.name for member in listed(path)[0]] == archive.namelist() == ["n1/caf\u00e9.jpg"]


def test_names_that_are_not_the_utf8_that_they_should_be(tmp_path):
    content = zip_bytes([("n1/\u00e9.jpg", b"1")]).replace("\u00e9".encode(), b"\xff\xfe")
    assert [member.name for member in listed(write(tmp_path, content))[0]] == ["n1/\udcff\udcfe.jpg"]


def test_members_that_were_written_as_a_stream(tmp_path):
    """Their sizes follow them: only the directory has them before."""

    class Stream(io.RawIOBase):
        written = b""

        def writable(self):
            return True

        def write(self, data):
            self.written += bytes(data)
            return len(data)

    stream = Stream()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, contents in PLAIN:
            archive.writestr(name, contents)
    path = write(tmp_path, stream.written)
    assert read_all(path, listed(path)[0]) == dict(PLAIN)


def test_64_bit_sizes_and_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 100)
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 2)
    content = zip_bytes(PLAIN)
    assert b"PK\6\6" in content and b"PK\6\7" in content
    path = write(tmp_path, content)
    assert read_all(path, listed(path)[0]) == dict(PLAIN)


def test_members_beyond_4_gib(tmp_path):
    path = str(tmp_path / "train.zip")
    with open(path, "w+b") as file, zipfile.ZipFile(file, "w") as archive:
        archive.writestr("n1/a.jpg", b"1")
        file.seek(5 * 2**30)  # a hole, which takes no room
        archive.start_dir = file.tell()
        archive.writestr("n1/b.jpg", b"22")
    members, _ = listed(path)
    assert members[1].offset > 5 * 2**30 and read_all(path, members) == {"n1/a.jpg": b"1", "n1/b.jpg": b"22"}


def test_more_members_than_are_read_at_once(tmp_path):
    names = ["%s/%d.jpg" % ("n" * 1000, number) for number in range(1500)]
    path = write(tmp_path, zip_bytes([(name, b"") for name in names]))
    assert [member.name for member in listed(path)[0]] == names


def test_a_comment_at_the_end(tmp_path):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("n1/a.jpg", b"1")
        archive.comment = b"c" * 65535
    assert len(listed(write(tmp_path, file.getvalue()))[0]) == 1


def test_an_archive_of_nothing(tmp_path):
    assert listed(write(tmp_path, zip_bytes([]))) == ([], [])


def test_what_is_no_regular_file_is_named_and_does_nothing(tmp_path):
    hostile = [
        (unix("link", stat.S_IFLNK | 0o777), b"/etc/passwd"),
        (unix("device", stat.S_IFCHR), b""),
        (unix("pipe", stat.S_IFIFO), b""),
        ("/tmp/absolute.jpg", b"1"),
        ("../above.jpg", b"2"),
        ("n1/../../above.jpg", b"3"),
        ("n1/a.jpg", b"another"),
        ("./n1//a.jpg", b"another"),
        (info_of("bzip2.jpg", compress_type=zipfile.ZIP_BZIP2), b"4"),
        (unix("n1/regular.jpg", stat.S_IFREG | 0o644), b"5"),
        (unix("n4/", stat.S_IFDIR | 0o755), b""),
    ]
    with pytest.warns(UserWarning, match="Duplicate name"):
        path = write(tmp_path, zip_bytes(PLAIN + hostile))
    members, odd = listed(path)
    assert contents_of(path, members) == dict(PLAIN, **{"n1/regular.jpg": b"5"})
    outside = "leads out of the archive"
    expected = [("link", "a link"), ("device", "a device"), ("pipe", "a device")]
    expected += [(name, outside) for name in ("/tmp/absolute.jpg", "../above.jpg", "n1/../../above.jpg")]
    expected += [("n1/a.jpg", "a duplicate")] * 2 + [("bzip2.jpg", "compressed by another method than deflate")]
    assert odd == expected
    assert [entry.name for entry in tmp_path.iterdir()] == ["shard.tar"]


def test_encrypted_members_are_named(tmp_path):
    content = bytearray(zip_bytes(PLAIN[:1]))
    content[content.index(b"PK\1\2") + 8] |= 1
    assert listed(write(tmp_path, bytes(content))) == ([], [("n1/a.jpg", "encrypted")])


def changed(field, value, form="<L", sign=b"PK\1\2"):
    """Return an archive with another number at byte `field` of its first record with that sign."""
    content = bytearray(zip_bytes(PLAIN))
    struct.pack_into(form, content, content.index(sign) + field, value)
    return bytes(content)


@pytest.mark.parametrize(
    "content, why",
    [
        (changed(20, 699), "n1/a.jpg cannot have 699 bytes there"),
        (changed(20, 2**31), "n1/a.jpg cannot have 2147483648 bytes there"),
        (changed(42, 2**31), "n1/a.jpg lies beyond it"),
        (changed(42, 5), "it is damaged at byte 5: the header of n1/a.jpg should begin there"),
        (changed(26, 2**16 - 1, "<H", b"PK\3\4"), "n1/a.jpg cannot have 700 bytes there"),
        (changed(28, 2**16 - 1, "<H"), "an entry of its directory should lie there"),
        (changed(0, 0), "an entry of its directory should lie there"),
        (changed(10, 3, "<H", b"PK\5\6"), "its directory lists 4 members instead of 3"),
        (changed(16, 0, "<L", b"PK\5\6"), "a directory of [0-9]+ bytes should lie before it, at byte 0"),
        (changed(4, 1, "<H", b"PK\5\6"), "one of several parts"),
        (zip_bytes(PLAIN)[:-1], "cut off at byte [0-9]+: it has no directory at its end"),
    ],
)
def test_damage_is_named(tmp_path, content, why):
    with pytest.raises(ArchiveError, match=why) as caught:
        listed(write(tmp_path, content))
    assert str(caught.value).isprintable()


def test_a_zip_in_a_member_does_not_stand_for_one_that_was_cut_off(tmp_path):
    content = zip_bytes([("n1/a.jpg", b"1"), ("in.zip", zip_bytes(PLAIN))])
    with pytest.raises(ArchiveError, match="should lie before it"):
        listed(write(tmp_path, content[: content.index(b"PK\5\6") + 22]))


def attempt(path, size):
    """Return the names of the members; None for an ArchiveError, whose text is one line."""
    try:
        members, _ = listed(path)
    except ArchiveError as error:
        assert str(error).isprintable() and len(str(error)) < 1000
        return None
    assert all(0 <= member.offset <= member.offset + member.size <= size for member in members)
    return [member.name for member in members]


def mixture(monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(zipfile, "ZIP64_LIMIT", 800)
        patch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 2)
        return zip_bytes(PLAIN + [("類.jpg", b"1"), ("../a", b"2")], zipfile.ZIP_DEFLATED)


def test_an_archive_cut_off_anywhere_is_an_error(tmp_path, monkeypatch):
    whole = mixture(monkeypatch)
    path = write(tmp_path, whole)
    assert len(attempt(path, len(whole))) == 5
    for length in reversed(range(len(whole))):
        os.truncate(path, length)
        assert attempt(path, length) is None


def test_bytes_that_have_changed_end_in_a_listing_or_an_error(tmp_path, monkeypatch):
    whole, chance, errors = mixture(monkeypatch), random.Random(0), 0
    directory = whole.index(b"PK\1\2")
    for _ in range(500):
        content = bytearray(whole)
        for _ in range(chance.choice([1, 1, 2, 20])):
            content[chance.randrange(chance.choice([0, directory]), len(content))] = chance.choice([0, 255, 7, 130])
        errors += attempt(write(tmp_path, bytes(content)), len(content)) is None
    assert 100 < errors < 500
