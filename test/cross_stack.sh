#!/usr/bin/env bash
# Checkpoints move between torch versions: each interpreter trains an epoch on the digits, every other one evaluates the
# checkpoint to the same accuracies and trains another epoch from it.
#   bash test/cross_stack.sh PYTHON PYTHON [PYTHON...]
set -euo pipefail
. "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"
case ${1:-} in
    -h | --help)
        print_header
        exit 0
        ;;
esac
if [ $# -lt 2 ]; then
    echo "[Error] name two interpreters or more: bash test/cross_stack.sh PYTHON PYTHON [PYTHON...]" >&2
    exit 2
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"$1" "$root/tools/make_digits.py" "$work/digits"
options=("--data-path=$work/digits" --device=cpu --amp=none --input-size=32 --batch-size=64 --num-workers=0
    --no-repeated-aug --print-freq=1000)
# run PYTHON OPTION...: the accuracies that a run of the small network prints.
run() {
    local interpreter=$1
    shift
    "$interpreter" "$root/test/helpers/small_main.py" "${options[@]}" "$@" | sed -n 's/.*INFO \(.*Acc@1.*\) loss.*/\1/p'
}

for writer in "$@"; do
    rm -rf "$work/written"
    written=$(run "$writer" --epochs=1 "--output-dir=$work/written")
    for reader in "$@"; do
        evaluated=$(run "$reader" --eval "--resume=$work/written/checkpoint.pth")
        if [ "$evaluated" != "$written" ]; then
            printf '[Error] %s wrote\n%s\n%s evaluates\n%s\n' "$writer" "$written" "$reader" "$evaluated" >&2
            exit 1
        fi
        cp -r "$work/written" "$work/copy"
        run "$reader" --epochs=2 "--output-dir=$work/copy" >/dev/null
        rm -rf "$work/copy"
        echo "a checkpoint of $writer is evaluated and resumed under $reader"
    done
done
