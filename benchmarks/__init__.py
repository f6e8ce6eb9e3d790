"""Measurements of this code beside the baseline in test/reference; benchmark.py runs them."""

import os
import sys

_ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_REFERENCE = os.path.join(_ROOT, "test", "reference")  # baseline_smlp, baseline_siblings and baseline_training
_HELPERS = os.path.join(_ROOT, "test", "helpers")  # recipe
for _folder in (_REFERENCE, _HELPERS):
    if _folder not in sys.path:
        sys.path.append(_folder)
