"""What lies in a folder."""

import os


def names_below(folder):
    """Return the paths of the files below `folder`, sorted."""
    return sorted(os.path.join(parent, name) for parent, _, files in os.walk(folder) for name in files)


def contents(folder):
    """Return {relative path: bytes} of the files below `folder`."""
    found = {}
    for inner, _, names in os.walk(str(folder)):
        for name in names:
            path = os.path.join(inner, name)
            with open(path, "rb") as file:
                found[os.path.relpath(path, str(folder))] = file.read()
    return found


def everything_below(root):
    """Return {path: (kind, time of the last change, content)} of all that lies below `root`, itself included."""
    found = {}
    for folder, _, names in os.walk(str(root)):
        for path in [folder] + [os.path.join(folder, name) for name in names]:
            status = os.stat(path)
            content = b""
            if os.path.isfile(path):
                with open(path, "rb") as file:
                    content = file.read()
            found[path] = (status.st_mode, status.st_mtime_ns, status.st_ino, content)
    return found
