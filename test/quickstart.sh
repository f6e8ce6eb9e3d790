#!/usr/bin/env bash
# From nothing to a trained, evaluated network: makes .venv if need be, writes scikit-learn's handwritten digits as an
# image folder (data/digits), trains sMLPNet-T on them for 6 epochs and evaluates the best weights. Minutes on a CPU.
#   bash test/quickstart.sh [any option of main.py]
set -euo pipefail
. "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"
digits=$root/data/digits
options=("--data_path=$digits" "--config=$root/configs/digits.yaml" "$@")
read_options 1 "${options[@]}"

echo "The digits and the checkpoints take 0.7 GB in $root"
use_environment requirements.txt
if [ ! -d "$digits" ]; then
    "$PYTHON" "$root/tools/make_digits.py" "$digits"
fi
bash "$root/test/train_full_1p.sh" "${options[@]}"
bash "$root/test/train_eval_8p.sh" "${options[@]}" --nproc=1 --resume="$output/best.pth"
cat <<EOF

Next:
  $PYTHON $root/predict.py $output $digits/val/7 --top=3
  $PYTHON $root/tools/report.py $output
  your own photos, or ImageNet: see $root/README.md
EOF
