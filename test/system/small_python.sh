#!/usr/bin/env bash
# Stands in for the interpreter that the wrappers use: the same, with small_main.py in the place of main.py.
words=()
for word in "$@"; do
    case $word in
        */main.py) word=$(dirname "$0")/../helpers/small_main.py ;;
    esac
    words+=("$word")
done
exec "$REAL_PYTHON" "${words[@]}"
