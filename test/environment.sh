# Shared by quickstart.sh and run_tests.sh, which source it: finds a Python that has what is needed, or makes one.
# shellcheck shell=bash

root=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)

# use_environment MODULES REQUIREMENTS: exports PYTHON, an interpreter that imports every one of MODULES (separated by
# commas). The active environment serves if it does; otherwise .venv in the project, made and filled if need be.
use_environment() {
    local modules=$1 requirements=$2 interpreter
    for PYTHON in "${PYTHON:-}" python3; do
        if [ -n "$PYTHON" ] && "$PYTHON" -c "import $modules" 2>/dev/null; then
            export PYTHON
            return
        fi
    done
    interpreter=$(find_python 3.10 3.11 3.12 3.13 3.14) || exit 1
    make_environment "$root/.venv" "$modules" "$interpreter" -r "$root/$requirements"
}

# make_environment FOLDER MODULES INTERPRETER WHAT...: exports PYTHON, the interpreter of the virtual environment FOLDER,
# after making it with INTERPRETER and installing WHAT (pip's words) unless it imports MODULES already.
make_environment() {
    local folder=$1 modules=$2 interpreter=$3
    shift 3
    export PYTHON=$folder/bin/python
    if "$PYTHON" -c "import $modules" 2>/dev/null; then
        return
    fi
    if [ ! -x "$PYTHON" ]; then
        "$interpreter" -m venv "$folder"
    fi
    echo "Installing into $folder (torch is large: this can take some minutes)"
    "$PYTHON" -m pip install --quiet --disable-pip-version-check "$@"
    "$PYTHON" -c "import $modules"
}

# find_python VERSION...: an interpreter of one of these versions: python3 if it is, else pythonVERSION or pyenv's.
find_python() {
    local version candidate candidates=(python3)
    for version in "$@"; do
        candidates+=("python$version" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/"$version".*/bin/python)
    done
    for candidate in "${candidates[@]}"; do
        version=$("$candidate" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || continue
        case " $* " in *" $version "*)
            echo "$candidate"
            return
            ;;
        esac
    done
    echo "[Error] Python $* is needed, and none was found on the PATH or in pyenv" >&2
    return 1
}
