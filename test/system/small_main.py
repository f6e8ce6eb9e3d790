"""main.py with a small network of the same kind, so that tests of the machinery take seconds."""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

import build
import main
from runtime.compat import create_model


def create_small_model(name, **options):
    return create_model(name, **dict({"dim": 16, "depths": (1, 1, 2, 1)}, **options))


if __name__ == "__main__":
    build.create_model = create_small_model
    sys.exit(main.main())
