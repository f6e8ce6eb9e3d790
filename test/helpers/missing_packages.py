"""Print which packages this interpreter lacks of those that pip would install: `missing_packages.py [-r FILE|NAME]...`

It imports none of them, and compares no versions: an environment that somebody made on purpose is taken as it is.
"""

import os
import re
import sys


def installed(name):
    """Return whether the package `name` is installed."""
    if sys.version_info >= (3, 8):
        from importlib import metadata

        try:
            metadata.distribution(name)
        except metadata.PackageNotFoundError:
            return False
        return True
    import pkg_resources

    return pkg_resources.safe_name(name).lower() in pkg_resources.working_set.by_key


def names_in(path):
    """Return the names of the packages that a requirement file lists, those of the files that it includes too."""
    names = []
    with open(path, encoding="utf-8") as file:
        for line in file:
            words = line.partition("#")[0].split()
            if words[:1] == ["-r"]:
                names += names_in(os.path.join(os.path.dirname(path), words[1]))
            elif words:
                names.append(re.match(r"[\w.-]+", words[0]).group())
    return names


def main(words):
    names, words = [], list(words)
    while words:
        word = words.pop(0)
        names += names_in(words.pop(0)) if word == "-r" else [word]
    print(" ".join(name for name in names if not installed(name)))


if __name__ == "__main__":
    main(sys.argv[1:])
