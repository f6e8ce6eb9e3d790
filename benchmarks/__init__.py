"""Measurements of this code beside the baseline in test/reference; benchmark.py runs them."""

import os
import sys

_ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
REFERENCE = os.path.join(_ROOT, "test", "reference")
if REFERENCE not in sys.path:
    sys.path.append(REFERENCE)  # of baseline_smlp, baseline_siblings and baseline_training
