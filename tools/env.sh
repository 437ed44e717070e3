#!/usr/bin/env bash
# Runs a command in the Python environment of this repository and makes that environment first
# where needed:  tools/env.sh python -m pytest
#
# Which environment, in this order:
#   an active virtual environment (VIRTUAL_ENV) or a named conda environment: reused;
#   Google Colab: its own Python, whose torch and numpy stay as they are;
#   otherwise .venv in the repository: reused, or created.
#
# Installing happens once. A stamp, written last, holds a hash of requirements.txt and
# pyproject.toml, so a change or an interrupted set-up leads to a new installation.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

say() { printf 'drrlib: %s\n' "$*" >&2; }

new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; }

find_python() {
    local candidate
    for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11 python3.10 python}; do
        if new_enough "$candidate"; then
            command -v "$candidate"
            return
        fi
    done
    say "no Python 3.10 or newer was found; install one, or name it: make PYTHON=/path/to/python3 ..."
    return 1
}

make_venv() { # make_venv FOLDER: needs nothing but the standard library
    local base
    base=$(find_python)
    if ! "$base" -c 'import ensurepip, venv' 2>/dev/null; then
        say "$base cannot make virtual environments (its venv or ensurepip module is missing)."
        say "On Debian or Ubuntu: apt-get install python3-venv. Or name another one: make PYTHON=..."
        return 1
    fi
    say "creating the virtual environment $1 with $("$base" --version)"
    "$base" -m venv --clear "$1"
}

on_colab() { [ -n "${COLAB_RELEASE_TAG:-}" ]; }

exec 3>&1 1>&2 # what set-up prints goes to stderr; the command gets stdout back
if [ -n "${VIRTUAL_ENV:-}" ]; then
    env=$VIRTUAL_ENV python=$VIRTUAL_ENV/bin/python stamp=$VIRTUAL_ENV/.drrlib-setup
elif [ -n "${CONDA_PREFIX:-}" ] && [ "${CONDA_DEFAULT_ENV:-base}" != base ]; then
    env=$CONDA_PREFIX python=$CONDA_PREFIX/bin/python stamp=$CONDA_PREFIX/.drrlib-setup
elif on_colab; then
    env="" python=$(command -v python3) stamp=$root/.setup-stamp
else
    env=$root/.venv python=$root/.venv/bin/python stamp=$root/.venv/.drrlib-setup
fi

# Two makes at once: the second waits for the first one's installation.
if command -v flock >/dev/null; then
    exec 9>"$root/.setup-lock"
    flock 9
fi

if [ "$env" = "$root/.venv" ] && ! "$python" -m pip --version >/dev/null 2>&1; then
    make_venv "$env"
fi
if ! new_enough "$python"; then
    say "$python does not run or is older than Python 3.10; deactivate that environment or make a new one"
    exit 1
fi

wanted=$(cat "$root/requirements.txt" "$root/pyproject.toml" | cksum)" $root $("$python" --version)"
if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
    rm -f "$stamp"
    say "installing into ${env:-the Python of Colab}, once; this takes some minutes"
    "$python" -m pip --version >/dev/null 2>&1 || "$python" -m ensurepip
    pip=("$python" -m pip install --disable-pip-version-check --progress-bar off)
    if on_colab && [ -z "$env" ]; then
        kept=$(mktemp)
        "$python" -m pip freeze | grep -E '^(torch|numpy)==' >"$kept" || true
        "${pip[@]}" -q -c "$kept" -e "$root[test]"
        rm -f "$kept"
    else
        "${pip[@]}" -r "$root/requirements.txt" -e "$root" |
            { grep --line-buffered -v "already satisfied" || true; }
    fi
    printf '%s\n' "$wanted" >"$stamp"
fi

[ -e /dev/fd/9 ] && exec 9>&-
exec 1>&3 3>&-
if [ -n "$env" ]; then
    export PATH=$env/bin:$PATH
    [ -n "${CONDA_PREFIX:-}" ] && [ "$env" = "$CONDA_PREFIX" ] || export VIRTUAL_ENV=$env
fi
exec "$@"
