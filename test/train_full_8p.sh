#!/usr/bin/env bash
# Accuracy on 8 devices: smlpnet_tiny, batch 112 each, 300 epochs. Run the same command again to resume.
#   bash test/train_full_8p.sh --data_path=DIR [--nproc=N] [any option of main.py]
set -euo pipefail
. "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"
read_options 8 "$@"
train acc --existing-output=match --dist-eval --pin-mem
