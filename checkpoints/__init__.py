"""Weights on the disk: written atomically, read without running code."""
