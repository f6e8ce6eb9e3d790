# Shared by the wrappers, which source it: reads their options, starts main.py, and reports.
# shellcheck shell=bash

root=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
python=${PYTHON:-python3}
output=$root/test/output/0
data_path=""
resume=""
passed=()        # options for main.py, the wrapper's own first, so that the user's win
launcher=()      # options for tools/launch.py, likewise
node_rank=0

# read_options PROCESSES "$@": sets launcher, node_rank, output, data_path, resume and passed from the user's options.
read_options() {
    local processes=$1
    shift
    while [ $# -gt 0 ]; do
        local name=${1%%=*} value=""
        case $name in
            --data_path | --data-path | --resume | --nproc | --output_dir | --output-dir | \
                --nnodes | --node_rank | --node-rank | --master_addr | --master-addr | --master_port | --master-port)
                if [ "$name" != "$1" ]; then
                    value=${1#*=}
                elif [ $# -gt 1 ]; then
                    value=$2
                    shift
                fi
                ;;
        esac
        case $name in
            --data_path | --data-path) data_path=$value ;;
            --resume) resume=$value ;;
            --nproc) processes=$value ;;
            --node_rank | --node-rank) node_rank=$value ;;
            --nnodes | --master_addr | --master-addr | --master_port | --master-port)
                launcher+=("${name//_/-}=$value")
                ;;
            --output_dir | --output-dir) if [ -n "$value" ]; then output=$value; fi ;;
            *) passed+=("$1") ;;
        esac
        shift
    done
    if [ -z "$data_path" ]; then
        echo "[Error] --data_path is missing: name the folder that holds train/ and val/ by --data_path=DIR" >&2
        exit 1
    fi
    case $processes in
        '' | *[!0-9]* | 0)
            echo "[Error] --nproc must be a positive number, got '$processes'" >&2
            exit 2
            ;;
    esac
    launcher+=("--nproc=$processes" "--node-rank=$node_rank")
    passed+=("--data-path=$data_path" "--output-dir=$output")
    if [ -n "$resume" ]; then passed+=("--resume=$resume"); fi
}

# prepare_environment: Ascend's settings where an NPU is meant, and a check that the packages are there.
prepare_environment() {
    if [ "${etp_running_flag:-}" != true ] && npu_is_meant; then
        # shellcheck source=test/env_npu.sh
        . "$root/test/env_npu.sh"
    fi
    if ! "$python" -c 'import torch, torchvision, timm, yaml, tqdm' 2>/dev/null; then
        echo "[Error] $python lacks torch, torchvision, timm, pyyaml or tqdm: run $python -m pip install -r" \
            "$root/requirements.txt (1.5_ and 1.8_requirements.txt for those torch versions)" >&2
        exit 1
    fi
}

# npu_is_meant: whether the options ask for an NPU, or leave the device open on a machine that has one.
npu_is_meant() {
    local words=" ${passed[*]} "
    case $words in
        *" --npu "* | *" --device npu "* | *" --device=npu "*) return 0 ;;
        *" --device "* | *" --device="*) return 1 ;;
    esac
    [ -e /dev/davinci_manager ]
}

# start_main OPTION...: run main.py by tools/launch.py; ends the wrapper with its exit status if that is not 0.
# Signals to the wrapper are passed on, and it ends after main.py has: by itself bash would wait for a foreground
# command before it looks at a trap, or end at once without one.
start_main() {
    local status=0 name child
    "$python" "$root/tools/launch.py" "${launcher[@]}" "$root/main.py" \
        --config="$root/configs/smlpnet_tiny_ascend.yaml" "$@" "${passed[@]}" &
    child=$!
    for name in INT TERM HUP USR1; do
        # shellcheck disable=SC2064 # the names are meant as they are now
        trap "kill -s $name $child 2>/dev/null || true" "$name"
    done
    while kill -0 "$child" 2>/dev/null; do
        wait "$child" || true # a trapped signal ends it early
    done
    wait "$child" || status=$?
    trap - INT TERM HUP USR1
    case $status in
        0) return ;;
        2) ;; # bad input: main.py has said what in one line
        129 | 130 | 138 | 143) ;; # stopped by a signal, as main.py has said
        *) echo "[Error] main.py ended with exit status $status; see $output" >&2 ;;
    esac
    exit "$status"
}

# report RESULT SUFFIX: print the final result and write the case's log; of several machines the first one does.
report() {
    if [ "$node_rank" -ne 0 ]; then
        echo "Node $node_rank has ended; the final result is printed on node 0 and lies in $output"
        return
    fi
    "$python" "$root/tools/case_log.py" --result="$1" --folder="$output" --suffix="$2" --seconds="$SECONDS"
}

# train SUFFIX OPTION...: one training case from start to report.
train() {
    local suffix=$1 word
    shift
    for word in "${passed[@]}"; do
        case $word in
            --eval | --throughput)
                echo "[Error] $word trains nothing: use test/train_eval_8p.sh, or main.py itself" >&2
                exit 2
                ;;
        esac
    done
    prepare_environment
    start_main "$@"
    for word in "${passed[@]}"; do
        case $word in
            --dry-run | --dry_run) return ;; # there is no result
        esac
    done
    report "$output/summary.json" "$suffix"
}

# evaluate: one evaluation case; its result passes through a file outside the output folder.
evaluate() {
    if [ -z "$resume" ]; then
        echo "[Error] --resume is missing: name the checkpoint, or the folder that holds it, by --resume=PATH" >&2
        exit 1
    fi
    prepare_environment
    result=$(mktemp)
    trap 'rm -f "$result"' EXIT
    start_main --eval --eval-json="$result"
    report "$result" eval
}
