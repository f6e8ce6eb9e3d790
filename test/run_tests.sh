#!/usr/bin/env bash
# Install what the tests need, unless the active environment has it, and run them all.
#   bash test/run_tests.sh [any option of pytest]
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
use_environment torch,torchvision,timm,yaml,tqdm,sklearn,pytest requirements-dev.txt
cd "$root"
"$PYTHON" -m pytest "$@"
