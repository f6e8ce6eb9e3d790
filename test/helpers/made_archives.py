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
