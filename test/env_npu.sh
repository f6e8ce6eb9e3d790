# Ascend's environment, sourced by the wrappers where an NPU is used. A variable that is set already stays as it is.
# shellcheck shell=bash

cann_root=/usr/local/Ascend
if [ -r /etc/Ascend/ascend_cann_install.info ]; then
    cann_root=$(sed -n 's/^Install_Path[^=]*=//p' /etc/Ascend/ascend_cann_install.info | head -n 1)
fi
for cann_script in "$cann_root/ascend-toolkit/set_env.sh" "$cann_root/nnae/set_env.sh"; do
    if [ -r "$cann_script" ]; then
        set +u # CANN's script reads variables that may be unset
        # shellcheck source=/dev/null
        . "$cann_script"
        set -u
        break
    fi
done

export TASK_QUEUE_ENABLE="${TASK_QUEUE_ENABLE:-2}"
export CPU_AFFINITY_CONF="${CPU_AFFINITY_CONF:-1}"
export HCCL_CONNECT_TIMEOUT="${HCCL_CONNECT_TIMEOUT:-1200}"
export HCCL_WHITELIST_DISABLE="${HCCL_WHITELIST_DISABLE:-1}"
export PYTORCH_NPU_ALLOC_CONF="${PYTORCH_NPU_ALLOC_CONF:-expandable_segments:True}"
export ASCEND_GLOBAL_LOG_LEVEL="${ASCEND_GLOBAL_LOG_LEVEL:-3}"
export ASCEND_SLOG_PRINT_TO_STDOUT="${ASCEND_SLOG_PRINT_TO_STDOUT:-0}"
