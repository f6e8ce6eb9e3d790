# Shared by quickstart.sh and run_tests.sh, which source it: finds a Python that has what is needed, or makes one.
# shellcheck shell=bash

root=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)

# use_environment MODULES REQUIREMENTS: exports PYTHON, an interpreter that imports every one of MODULES (separated by
# commas). The variable PYTHON wins; else the active python3 serves if it does, and else .venv in the project, which is
# made and filled if need be.
use_environment() {
    local modules=$1 requirements=$2 interpreter
    if [ -n "${PYTHON:-}" ]; then
        if ! command -v "$PYTHON" >/dev/null; then
            echo "[Error] PYTHON=$PYTHON is no interpreter: name one, or leave it out" >&2
            exit 2
        fi
        if ! "$PYTHON" -c "import $modules" 2>/dev/null; then
            echo "[Error] PYTHON=$PYTHON lacks a package: run $PYTHON -m pip install -r $root/$requirements" >&2
            exit 1
        fi
        export PYTHON
        return
    fi
    if python3 -c "import $modules" 2>/dev/null; then
        export PYTHON=python3
        return
    fi
    interpreter=$(find_python 3.10 3.11 3.12 3.13 3.14) || exit 1
    make_environment "$root/.venv" "$modules" "$interpreter" -r "$root/$requirements"
}

# make_environment FOLDER MODULES INTERPRETER WHAT...: exports PYTHON, the interpreter of the virtual environment FOLDER,
# after making it with INTERPRETER and installing WHAT (pip's words) unless it imports MODULES already.
make_environment() {
    local folder=$1 modules=$2 interpreter=$3 quiet=(--quiet)
    shift 3
    export PYTHON=$folder/bin/python
    if "$PYTHON" -c "import $modules" 2>/dev/null; then
        return
    fi
    if [ ! -x "$PYTHON" ] && ! "$interpreter" -m venv "$folder"; then
        echo "[Error] $folder cannot be made by $interpreter -m venv: set PYTHON to an interpreter with the packages" >&2
        exit 1
    fi
    echo "Installing into $folder: about 6 GB with the newest torch, which takes some minutes"
    if [ -t 1 ]; then quiet=(); fi # pip shows its progress
    if ! "$PYTHON" -m pip install ${quiet[@]+"${quiet[@]}"} --disable-pip-version-check "$@" ||
        ! "$PYTHON" -c "import $modules"; then
        echo "[Error] The installation failed: check network and disk space, and run the same command again" >&2
        exit 1
    fi
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
