"""Write scikit-learn's handwritten digits as an image folder: `python tools/make_digits.py DIR`.

1,797 real 8x8 images (UCI Optical Recognition of Handwritten Digits), shipped inside scikit-learn, enlarged to 32x32.
Every fifth image of a class goes to val/, the others to train/.
"""

import os
import shutil
import sys

from PIL import Image
from sklearn.datasets import load_digits

SIDE = 32


def write_digits(folder, val_every=5):
    """Write train/<digit>/ and val/<digit>/ below `folder`; returns the number of images of each part."""
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


def main():
    if len(sys.argv) != 2:
        sys.exit("usage: python tools/make_digits.py DIR")
    folder = sys.argv[1]
    if os.path.exists(folder) and os.listdir(folder):
        sys.exit("make_digits.py: error: %s is not empty: name a new folder" % folder)
    unfinished = folder.rstrip(os.sep) + ".partial"  # a stopped run leaves no half-written data set behind its name
    shutil.rmtree(unfinished, ignore_errors=True)
    counts = write_digits(unfinished)
    if os.path.isdir(folder):
        os.rmdir(folder)
    os.rename(unfinished, folder)
    print("%s: %d training and %d validation images of 10 digits" % (folder, counts["train"], counts["val"]))


if __name__ == "__main__":
    main()
