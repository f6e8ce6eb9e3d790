# Shared by the wrappers, which source it: reads their options, starts main.py, and reports.
# shellcheck shell=bash

. "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"
output=$root/test/output/0
data_path=""
resume=""
passed=()        # options for main.py, the wrapper's own first, so that the user's win
launcher=()      # options for tools/launch.py, likewise
node_rank=0

# fail STATUS MESSAGE: end the wrapper with one line.
fail() {
    echo "[Error] $2" >&2
    exit "$1"
}

# print_usage PROCESSES: what the wrapper does, from the comment at its top, and the options of all wrappers.
print_usage() {
    print_header
    cat <<EOF

Options, each as --name=VALUE or --name VALUE:
  --data_path=DIR    the data set: a folder with train/ and val/, one folder of images per class in each, or with lists or
                     archives of these names, see docs/DATA.md (required)
  --output_dir=DIR   where checkpoints, logs and results are saved (default: test/output/0)
  --resume=PATH      a checkpoint, or the folder of a run, to resume or to evaluate
  --nproc=N          processes of this machine, one for each device (default: $1)
  --help             print this text
train_multinode.sh also takes --nnodes=N, --node_rank=N, --master_addr=HOST and --master_port=PORT.
All other options are main.py's: python main.py --help
EOF
}

# read_options PROCESSES "$@": sets launcher, node_rank, output, data_path, resume and passed from the user's options.
read_options() {
    local processes=$1 word
    shift
    for word in "$@"; do
        case $word in
            -h | --help)
                print_usage "$processes"
                exit 0
                ;;
        esac
    done
    choose_python
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
    case $processes in
        '' | *[!0-9]* | 0) fail 2 "--nproc must be a positive number, got '$processes'" ;;
    esac
    launcher+=("--nproc=$processes" "--node-rank=$node_rank")
    passed+=("--data-path=$data_path" "--output-dir=$output")
    if [ -n "$resume" ]; then passed+=("--resume=$resume"); fi
    "$python" "$root/tools/launch.py" --check "${launcher[@]}" "$root/main.py" "${passed[@]}" || exit $?
    if [ -z "$data_path" ]; then
        fail 1 "--data_path is missing: name the folder that holds train/ and val/ by --data_path=DIR"
    fi
}

# choose_python: sets python, the interpreter of the variable PYTHON or else python3.
choose_python() {
    python=${PYTHON:-python3}
    if ! command -v "$python" >/dev/null; then
        fail 2 "PYTHON=$python is no interpreter: name one by PYTHON=/path/to/python, or leave it out for python3"
    fi
}

# prepare_environment: Ascend's settings where an NPU is meant, and a check of the packages and of the output folder.
prepare_environment() {
    local above=$output
    if [ "${etp_running_flag:-}" != true ] && npu_is_meant; then
        # shellcheck source=test/env_npu.sh
        . "$root/test/env_npu.sh"
    fi
    echo "Python: $(command -v "$python")"
    if ! has_modules torch torchvision timm yaml tqdm; then
        fail 1 "$python lacks torch, torchvision, timm, pyyaml or tqdm: run $python -m pip install -r \
$root/requirements.txt (1.5_ and 1.8_requirements.txt for those torch versions)"
    fi
    while [ ! -e "$above" ] && [ ! -L "$above" ]; do above=$(dirname -- "$above"); done
    if [ ! -w "$above" ]; then
        fail 2 "$output cannot be written to ($above is read-only): name another folder by --output_dir=DIR"
    fi
}

# has_modules NAME...: whether $python finds all these modules; it does not import them, which takes seconds.
has_modules() {
    "$python" -c 'import sys, importlib.util as util; sys.exit(not all(map(util.find_spec, sys.argv[1:])))' "$@"
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
# Signals to the wrapper are passed on, and it ends after main.py has: bash alone would wait for a foreground command
# before it runs a trap, or end at once without one.
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
        2) ;; # bad input, which main.py has reported in one line
        129 | 130 | 138 | 143) ;; # stopped by a signal, as main.py has reported
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
                fail 2 "$word trains nothing: use test/train_eval_8p.sh, or main.py itself"
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
        fail 1 "--resume is missing: name the checkpoint, or the folder that holds it, by --resume=PATH"
    fi
    prepare_environment
    result=$(mktemp)
    trap 'rm -f "$result"' EXIT
    start_main --eval --eval-json="$result"
    report "$result" eval
}
