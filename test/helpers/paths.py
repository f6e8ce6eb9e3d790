"""Where things lie in the project."""

import os

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
TEST = os.path.join(ROOT, "test")
GOLDEN = os.path.join(TEST, "golden")
HELPERS = os.path.join(TEST, "helpers")
