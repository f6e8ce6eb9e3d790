"""The classes of ImageNet's validation images, as the development kit of ILSVRC2012 tells them."""

from __future__ import annotations

import io
import tarfile

from runtime.errors import UserError, reason, shown
from storage.files import DEFAULT

_TRUTH, _SYNSETS = "ILSVRC2012_validation_ground_truth.txt", "meta.mat"
_IMAGE = "ILSVRC2012_val_%08d.JPEG"
_LARGEST = 2**26  # bytes of a file of the kit


def read_devkit(path: str) -> dict[str, str]:
    """Return {file name of a validation image: name of its class, such as n01440764} of the kit's tar `path`.

    UserError where it is no such kit. Its table of classes is a file of MATLAB, which scipy reads.
    """
    try:
        from scipy.io import loadmat
    except ImportError:
        text = "%s is read by scipy: pip install scipy, or put a list val.txt of names and classes beside it"
        raise UserError(text % shown(path)) from None
    try:
        files = _files_of(path)
        numbers = [int(line) for line in files[_TRUTH].split()]
        synsets = loadmat(io.BytesIO(files[_SYNSETS]), squeeze_me=True)["synsets"]
        names = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in synsets}
        return {_IMAGE % place: names[number] for place, number in enumerate(numbers, 1)}
    except Exception as error:  # a damaged file of MATLAB raises nearly anything
        text = "%s is not the development kit of ILSVRC2012 (%s): download it again"
        raise UserError(text % (shown(path), reason(error))) from None


def _files_of(path: str) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    with DEFAULT.open(path) as file, tarfile.open(fileobj=file) as archive:
        for member in archive:
            name = member.name.rpartition("/")[2]
            if member.isfile() and name in (_TRUTH, _SYNSETS):
                if member.size > _LARGEST:
                    raise ValueError("%s is too large" % name)
                content = archive.extractfile(member)
                found[name] = content.read() if content else b""
    for name in (_TRUTH, _SYNSETS):
        if name not in found:
            raise ValueError("it has no %s" % name)
    return found
