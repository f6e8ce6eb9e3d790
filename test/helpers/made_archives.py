"""Tar and zip archives for tests, and what is listed of them."""

import io
import tarfile
import zipfile

from pipeline.archives.members import list_members

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


def special(name, kind, **fields):
    """Return a TarInfo of another type than a regular file."""
    info = tarfile.TarInfo(name)
    info.type = kind
    for field, value in fields.items():
        setattr(info, field, value)
    return info


def tar_bytes(members, form="gnu", records=None):
    """Return a tar archive of (name, contents) and of TarInfos without contents; `records` are pax headers of all."""
    file = io.BytesIO()
    with tarfile.open(
        fileobj=file, mode="w", format=FORMATS[form], errors="surrogateescape", pax_headers=records
    ) as archive:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                archive.addfile(info, io.BytesIO(member[1]))
    return file.getvalue()


def zip_bytes(members, method=zipfile.ZIP_STORED):
    """Return a zip archive of (name or ZipInfo, contents)."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, contents in members:
            archive.writestr(name, contents)
    return file.getvalue()


def write(folder, content, name="shard.tar"):
    """Write an archive into `folder`, and return its path."""
    path = folder / name
    path.write_bytes(content)
    return str(path)


def listed(path):
    """Return (members, [(name, what)] of what is odd) of an archive."""
    odd = []
    return list(list_members(path, lambda name, what: odd.append((name, what)))), odd


def contents_of(path, members):
    """Return {name: contents} of members that are not deflated."""
    with open(path, "rb") as file:
        data = file.read()
    return {member.name: data[member.offset : member.offset + member.size] for member in members}


def field(number, length):
    return b"%0*o\0" % (length - 1, number)


def header(name, size=b"00000000000\0", kind=b"0", magic=b"ustar\x0000", total=sum, tail=b""):
    """Return a header made by hand; `total` adds up its bytes."""
    start = name.ljust(100, b"\0") + field(0o644, 8) + field(0, 8) + field(0, 8) + size + field(0, 12)
    end = (kind + bytes(100) + magic).ljust(189, b"\0") + tail
    block = (start + b" " * 8 + end).ljust(512, b"\0")
    return block[:148] + b"%06o\0 " % total(block) + block[156:]


def records(**values):
    """Return a pax header for the next member."""
    text = b""
    for key, value in values.items():
        record = b" " + key.replace("__", ".").encode() + b"=" + value + b"\n"
        length = len(record) + len(b"%d" % (len(record) + 3))
        text += b"%d" % length + record
    return header(b"x", field(len(text), 12), b"x") + text.ljust(-(-len(text) // 512) * 512, b"\0")
