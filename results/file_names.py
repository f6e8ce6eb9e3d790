"""The names of the files in the output folder of a run; importing them does not import torch."""

CONFIG = "config.yaml"
ROWS = "log.txt"
SUMMARY = "summary.json"
EVALUATION = "evaluation.json"  # of --per-class
TRAIN_LOG, EVAL_LOG = "train_0.log", "eval_0.log"
CURVES, PAGE = "curves.png", "report.html"  # of tools/report.py
LOCK = ".lock"
