#!/usr/bin/env bash
# Accuracy on several machines that share the output folder: smlpnet_tiny, batch 112 a device, 300 epochs. The same
# command on each machine, with a NODE_RANK of its own; run it again on each to resume.
#   NNODES=2 NODE_RANK=0 MASTER_ADDR=HOST [MASTER_PORT=29500] \
#       bash test/train_multinode.sh --data_path=DIR [--nproc=N, of each machine] [any option of main.py]
# HOST is the machine whose NODE_RANK is 0. The options --nnodes, --node-rank, --master-addr, --master-port win.
set -euo pipefail
. "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"
read_options 8 "--nnodes=${NNODES-}" "--node-rank=${NODE_RANK-}" "--master-addr=${MASTER_ADDR-}" "$@"
train acc --existing-output=match --dist-eval --pin-mem
