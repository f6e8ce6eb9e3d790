#!/usr/bin/env bash
# Speed on 8 devices: smlpnet_tiny, batch 112 each, 5 epochs. A run that is already in test/output/0 is renamed first.
#   bash test/train_performance_8p.sh --data_path=DIR [--nproc=N] [any option of main.py]
set -euo pipefail
. "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"
read_options 8 "$@"
train perf --existing-output=rename --epochs=5 --dist-eval --pin-mem
