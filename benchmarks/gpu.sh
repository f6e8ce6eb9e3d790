#!/usr/bin/env bash
# Measure one GPU in 8 minutes: bash benchmarks/gpu.sh [OPTION...]; --help lists the options.
# The variable PYTHON names the interpreter. Where OUT is set, the results and logs are copied to that folder, too, every
# few seconds: a limit of somebody else's may end this script at any time.
set -euo pipefail
cd "$(dirname -- "${BASH_SOURCE[0]}")/.."

export PYTHONUNBUFFERED=1 OMP_NUM_THREADS="${OMP_NUM_THREADS:-8}"
# One cache for all parts: the first of them compile what later ones measure.
export TORCHINDUCTOR_CACHE_DIR="${TORCHINDUCTOR_CACHE_DIR:-${TMPDIR:-/tmp}/inductor-$(id -u)}"
results=
args=("$@")
if [ -n "${OUT:-}" ]; then
    results=$(mktemp -d)
    args+=(--output "$results")
fi

copy() {
    [ -z "$results" ] || (cd "$results" && for file in *.jsonl; do cp -f "$file" "$OUT/"; done && tail -n +1 ./*.logs/*.log >"$OUT/all.log") 2>/dev/null || true
}

"${PYTHON:-python3}" -m benchmarks.gpu_plan "${args[@]}" &
plan=$!
trap 'kill -TERM "$plan"' INT TERM
while kill -0 "$plan" 2>/dev/null; do
    copy
    sleep 3 &
    wait -n "$plan" "$!" || true
done
status=0
wait "$plan" || status=$?
copy
exit "$status"
