# Shared by all scripts of this folder, which source it: the usage of a script, and a Python that has what is needed.
# shellcheck shell=bash

root=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)

# print_header: what a script does, from the comment at its top.
print_header() {
    sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"
}

# missing_packages INTERPRETER WHAT...: the packages that it lacks of WHAT (pip's words: -r FILE, or a name), on one line.
missing_packages() {
    "$1" "$root/test/helpers/missing_packages.py" "${@:2}" 2>/dev/null || echo "all packages"
}

# use_environment REQUIREMENTS: exports PYTHON, an interpreter that has every package of the file REQUIREMENTS. The
# variable PYTHON wins; else the active python3 serves if it has them, and else .venv in the project, which is made and
# filled if need be.
use_environment() {
    local requirements=$root/$1 interpreter missing
    if [ -n "${PYTHON:-}" ]; then
        if ! command -v "$PYTHON" >/dev/null; then
            echo "[Error] PYTHON=$PYTHON is no interpreter: name one, or leave it out" >&2
            exit 2
        fi
        missing=$(missing_packages "$PYTHON" -r "$requirements")
        if [ -n "$missing" ]; then
            echo "[Error] PYTHON=$PYTHON lacks $missing: run $PYTHON -m pip install -r $requirements" >&2
            exit 1
        fi
        export PYTHON
        return
    fi
    if [ -z "$(missing_packages python3 -r "$requirements")" ]; then
        export PYTHON=python3
        return
    fi
    interpreter=$(find_python 3.10 3.11 3.12 3.13 3.14) || exit 1
    make_environment "$root/.venv" "$interpreter" -r "$requirements"
}

# make_environment FOLDER INTERPRETER WHAT...: exports PYTHON, the interpreter of the virtual environment FOLDER, after
# making it with INTERPRETER and installing what it lacks of WHAT.
make_environment() {
    local folder=$1 interpreter=$2 quiet=(--quiet) missing
    shift 2
    export PYTHON=$folder/bin/python
    missing=$(missing_packages "$PYTHON" "$@")
    if [ -z "$missing" ]; then
        return
    fi
    if [ ! -x "$PYTHON" ] && ! "$interpreter" -m venv "$folder"; then
        echo "[Error] $folder cannot be made by $interpreter -m venv: set PYTHON to an interpreter with the packages" >&2
        exit 1
    fi
    echo "Installing into $folder: $missing (with the newest torch about 6 GB, which takes some minutes)"
    if [ -t 1 ]; then quiet=(); fi # pip shows its progress
    if ! "$PYTHON" -m pip install ${quiet[@]+"${quiet[@]}"} --disable-pip-version-check "$@" ||
        [ -n "$(missing_packages "$PYTHON" "$@")" ]; then
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
