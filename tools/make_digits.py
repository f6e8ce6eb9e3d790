"""Write scikit-learn's handwritten digits as an image folder: `python tools/make_digits.py DIR`.

1,797 real 8x8 images (UCI Optical Recognition of Handwritten Digits), shipped inside scikit-learn, enlarged to 32x32.
Every fifth image of a class goes to val/, the others to train/.
"""

from __future__ import annotations

import os
import sys
from typing import Sequence

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.realpath(__file__))))

from options.command_line import FileParser
from runtime.errors import shown
from runtime.programs import run_program
from utils import new_folder

SIDE = 32


def write_digits(folder: str, val_every: int = 5) -> dict[str, int]:
    """Write train/<digit>/ and val/<digit>/ below `folder`, and return the number of images of each part."""
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    counts, seen = {"train": 0, "val": 0}, [0] * 10
    for number, (pixels, label) in enumerate(zip(digits.images, digits.target)):
        part = "val" if seen[label] % val_every == val_every - 1 else "train"
        seen[label] += 1
        counts[part] += 1
        class_folder = os.path.join(folder, part, str(label))
        os.makedirs(class_folder, exist_ok=True)
        picture = Image.fromarray((pixels * 255 / 16).round().astype("uint8"))
        picture.resize((SIDE, SIDE), Image.BICUBIC).convert("RGB").save(os.path.join(class_folder, "%04d.png" % number))
    return counts


def run(argv: Sequence[str]) -> int:
    """Do what the command line `argv` asks for, and return the exit status."""
    parser = FileParser("make_digits.py", description=(__doc__ or "").splitlines()[0], allow_abbrev=False)
    parser.add_argument("folder", metavar="DIR", help="a new folder")
    folder = parser.parse_args(argv).folder
    with new_folder(folder) as unfinished:
        counts = write_digits(unfinished)
    print("%s: %d training and %d validation images of 10 digits" % (shown(folder), counts["train"], counts["val"]))
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run and return the exit status: 0; 2 for bad input; 130 after Ctrl-C."""
    return run_program("make_digits.py", run, argv)


if __name__ == "__main__":
    sys.exit(main())
