#!/usr/bin/env bash
# Install what the tests need, unless the active environment has it, and run them all.
#   bash test/run_tests.sh [any option of pytest]
#   bash test/run_tests.sh --stack 1.5|1.8|2 [...]   on that torch, the old ones in .venv-1.5 (Python 3.7), .venv-1.8 (3.8)
# With the variable CI set, a skipped test that test/skips.txt does not list is a failure.
set -euo pipefail
. "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"

stack=2
case ${1:-} in
    -h | --help)
        print_header
        exit 0
        ;;
    --stack)
        stack=${2:-}
        shift $(($# < 2 ? $# : 2))
        ;;
    --stack=*)
        stack=${1#*=}
        shift
        ;;
esac
case $stack in
    2) use_environment requirements-dev.txt ;;
    1.5) interpreter=$(find_python 3.7) || exit 1 ;;
    1.8) interpreter=$(find_python 3.8) || exit 1 ;;
    *)
        echo "[Error] --stack must be 1.5, 1.8 or 2, got '$stack'" >&2
        exit 2
        ;;
esac
if [ "$stack" != 2 ]; then
    make_environment "$root/.venv-$stack" "$interpreter" -r "$root/${stack}_requirements.txt" scikit-learn pytest
fi
cd "$root"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" # small networks in several processes: more threads only wait for each other
"$PYTHON" -c 'import sys, torch; print("Python %s, torch %s" % (sys.version.split()[0], torch.__version__))'
if [ $# -gt 0 ]; then
    exec "$PYTHON" -m pytest "$@"
fi
# Two processes with about as much to do each; most system tests wait for processes of their own.
log=$(mktemp)
"$PYTHON" -m pytest test/unit test/simulated_npu test/system/test_npu.py >"$log" 2>&1 &
trap 'kill $! 2>/dev/null || true; rm -f "$log"' EXIT
status=0
"$PYTHON" -m pytest test/system --ignore=test/system/test_npu.py || status=$?
wait $! || status=$?
cat "$log"
exit "$status"
