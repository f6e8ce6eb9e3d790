"""The names of the files in the output folder of a run; importing them does not import torch."""

CONFIG = "config.yaml"
ROWS = "log.txt"
SUMMARY = "summary.json"
EVALUATION = "evaluation.json"  # of --per-class
LOCK = ".lock"
