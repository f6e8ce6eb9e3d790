#!/usr/bin/env bash
# Measure one GPU, in about 10 minutes: bash benchmarks/gpu.sh [DIR]
# JSON files and charts go to DIR/<name of the card> (default: benchmarks/results), which is meant to be committed.
set -euo pipefail
cd "$(dirname -- "${BASH_SOURCE[0]}")/.."

python=${PYTHON:-python3}
card=$("$python" -c 'import re, torch; print(re.sub(r"\W+", "-", torch.cuda.get_device_name(0)))')
out=${1:-benchmarks/results}/$card
for batch in 112 256; do
    "$python" benchmark.py step --device cuda --precision float16 --batch-size "$batch" --rounds 5 --output "$out/batch-$batch"
done
"$python" benchmark.py e2e --device cuda --loader fast --steps 40 --output "$out"
"$python" benchmark.py ledger --precision float16 --output "$out"
"$python" benchmark.py step --device cuda --precision float16 --profile
