#!/usr/bin/env bash
# Builds .venv for the clone that this file lies in, unless it is there already; called by `make`,
# with PYTHON (interpreters to try), TORCH (what pip is given for it) and EXTRAS set.
#
# .venv/.installed holds the clone's folder. In a clone that was moved or copied it names another:
# that environment's commands start an interpreter that isn't there, or import the other clone.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
here=$(pwd -P)
stamp=.venv/.installed
fits='import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))'

step() { # MESSAGE COMMAND...
    printf '==> %s\n' "$1"
    local start=$SECONDS
    "${@:2}"
    printf '    done in %d s\n' $((SECONDS - start))
}

quietly() { .venv/bin/python -m pip install -qq --no-input --disable-pip-version-check "$@"; }

built() {
    [ "$(cat "$stamp" 2>/dev/null)" = "$here" ] && [ ! pyproject.toml -nt "$stamp" ] &&
        [ ! constraints.txt -nt "$stamp" ]
}

# Two calls at once (two terminals, two jobs): one builds, the other waits for it.
exec 9<constraints.txt
if command -v flock >/dev/null && ! flock -n 9; then
    echo '==> .venv is being built by another make: waiting for it'
    flock 9
fi
if built; then exit 0; fi

owner=$(cat "$stamp" 2>/dev/null || echo "$here") # nothing in stamps of former versions
if [ "$owner" != "$here" ] && [ -L .venv ]; then
    echo ".venv is a link to the environment of ${owner:-another clone}, whose code it would run." \
        'Remove the link (rm .venv); the next make builds one for this clone.' >&2
    exit 1
fi
fits_here=$(.venv/bin/python -c "import pip; $fits" 2>/dev/null && echo yes || true)
if [ -n "$owner" ] && [ "$owner" != "$here" ]; then
    echo "==> .venv was built for $owner, and the clone has moved or was copied: building it anew"
    fits_here=
fi
if [ -z "$fits_here" ]; then
    for candidate in $PYTHON ''; do
        if [ -z "$candidate" ]; then
            echo "No Python 3.11 or 3.12 with venv found (tried: $PYTHON)." \
                'Install one, or name it: make PYTHON=/path/to/python3.11' >&2
            exit 1
        fi
        "$candidate" -c "$fits" 2>/dev/null && break
    done
    version=$("$candidate" -c 'import sys; print(sys.version.split()[0])')
    step "[1/3] environment in .venv with Python $version" "$candidate" -m venv --clear .venv
fi
rm -f "$stamp"
# shellcheck disable=SC2086  # several words
step '[2/3] installing torch (200 MB or a few gigabytes with CUDA: minutes)' quietly $TORCH
step '[3/3] installing the rest at the versions in constraints.txt (1-2 minutes)' \
    quietly -e ".[$EXTRAS]" -c constraints.txt
printf '%s\n' "$here" >"$stamp"
