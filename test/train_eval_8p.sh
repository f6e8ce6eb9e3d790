#!/usr/bin/env bash
# Accuracy of a checkpoint, evaluated on 8 devices.
#   bash test/train_eval_8p.sh --data_path=DIR --resume=CHECKPOINT_OR_ITS_FOLDER [--nproc=N] [any option of main.py]
set -euo pipefail
. "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"
read_options 8 "$@"
evaluate
