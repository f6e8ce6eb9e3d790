#!/usr/bin/env bash
# Accuracy on one device: smlpnet_tiny, batch 112, 300 epochs. Run the same command again to resume.
#   bash test/train_full_1p.sh --data_path=DIR [--nproc=N] [any option of main.py]
set -euo pipefail
. "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"
read_options 1 "$@"
train acc --existing-output=match
