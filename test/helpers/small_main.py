"""main.py with a small network of the same kind, so that tests of the machinery take seconds.

The environment variable FAULT makes something go wrong (faults.py).
"""

import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.dirname(os.path.dirname(HERE)), HERE]

import faults  # noqa: E402
from small_models import create_small_model  # noqa: E402

import main  # noqa: E402
from runtime.programs import leave  # noqa: E402
from training import build  # noqa: E402 - after the path is set


def main_with_small_model():
    build.create_model = create_small_model
    if os.environ.get("FAULT"):
        faults.install(os.environ["FAULT"])
    return main.main()


if __name__ == "__main__":
    leave(main_with_small_model())
