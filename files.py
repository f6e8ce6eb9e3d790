"""Files that a program writes where its user says: whole or not at all, and in no other's place."""

import contextlib
import os
import uuid

from runtime.errors import UserError


def check_target(path, force):
    """UserError unless a file `path` can be written; one that is there may be replaced with `force` alone."""
    if os.path.isdir(path):
        raise UserError("%s is a folder: name a file" % path)
    if os.path.lexists(path) and not force:
        raise UserError("%s exists: name another file, or pass --force" % path)
    if not os.path.isdir(os.path.dirname(os.path.abspath(path))):
        raise UserError("%s: its folder does not exist" % path)


@contextlib.contextmanager
def replacing(path, force):
    """The name of a file to write, which becomes `path` at the end, as `check_target` allows; after an error it is
    deleted."""
    staged = "%s.%s.tmp" % (os.path.abspath(path), uuid.uuid4().hex)
    try:
        yield staged
        check_target(path, force)  # what was written may have taken minutes
        os.replace(staged, path)
    finally:
        if os.path.exists(staged):
            os.unlink(staged)
