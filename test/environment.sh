# Shared by quickstart.sh and run_tests.sh, which source it: finds a Python that has what is needed, or makes one.
# shellcheck shell=bash

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# use_environment MODULES REQUIREMENTS: exports PYTHON, an interpreter that imports every one of MODULES (separated by
# commas). The active environment serves if it does; otherwise .venv in the project, made and filled if need be.
use_environment() {
    local modules=$1 requirements=$2
    for PYTHON in "${PYTHON:-}" python3 "$root/.venv/bin/python"; do
        if [ -n "$PYTHON" ] && "$PYTHON" -c "import $modules" 2>/dev/null; then
            export PYTHON
            return
        fi
    done
    if [ ! -x "$root/.venv/bin/python" ]; then
        "$(newest_python)" -m venv "$root/.venv"
    fi
    PYTHON=$root/.venv/bin/python
    export PYTHON
    echo "Installing $requirements into .venv (torch is large: this can take some minutes)"
    "$PYTHON" -m pip install --quiet --disable-pip-version-check -r "$root/$requirements"
    "$PYTHON" -c "import $modules"
}

# newest_python: the first Python >= 3.10 on the PATH.
newest_python() {
    local candidate
    for candidate in python3 python3.13 python3.12 python3.11 python3.10; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "[Error] Python 3.10 or newer is needed, and none is on the PATH" >&2
    exit 1
}
