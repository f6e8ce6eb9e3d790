#!/usr/bin/env bash
# Speed on one device: smlpnet_tiny, batch 112, 1 epoch. A run that is already in test/output/0 is renamed first.
#   bash test/train_performance_1p.sh --data_path=DIR [--nproc=N] [any option of main.py]
set -euo pipefail
. "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"
read_options 1 "$@"
train perf --existing-output=rename --epochs=1
