# Sourced by the other scripts: makes or reuses a virtual environment with openvclip in it, and
# sets ROOT (the clone) and PY (the environment's Python). Commands are printed before they are run.
#
# Settings, from the environment:
#   VENV         folder of the virtual environment  (default: .venv in the clone)
#   PYTHON       the Python that makes it           (default: python3)
#   CONSTRAINTS  pins for pip; empty: none          (default: constraints.txt)
#   SKIP_INSTALL set to 1 to use VENV without installing anything

source "$(dirname "${BASH_SOURCE[0]}")/start.sh"

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
# This clone is run, whatever is installed in the environment.
export PYTHONPATH="$ROOT${PYTHONPATH:+:$PYTHONPATH}"
VENV="${VENV:-$ROOT/.venv}"
PYTHON="${PYTHON:-python3}"
CONSTRAINTS="${CONSTRAINTS-$ROOT/constraints.txt}"
PY="$VENV/bin/python"

env_fail() {
    echo "setup_env: $*" >&2
    exit 1
}

# A line that changes when a new installation is due: pins, pyproject.toml, Python, clone.
env_fingerprint() {
    "$PY" - "$ROOT" "$CONSTRAINTS" <<'PYTHON'
import hashlib, pathlib, sys
root, constraints = sys.argv[1:]
digest = hashlib.sha256(f"{sys.version} {root} {constraints}".encode())
for path in (f"{root}/pyproject.toml", constraints):
    if path:
        digest.update(pathlib.Path(path).read_bytes())
print(digest.hexdigest())
PYTHON
}

env_setup() {
    local stamp="$VENV/openvclip-installed.sha256" wanted started=$SECONDS
    # A venv whose creation was cut off has a python but no pip.
    if ! "$PY" -m pip --version >/dev/null 2>&1; then
        [ "${SKIP_INSTALL:-}" != 1 ] || env_fail "SKIP_INSTALL=1, but $PY is missing or has no pip"
        command -v "$PYTHON" >/dev/null || env_fail "no $PYTHON; install Python 3.10 or newer"
        "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
            env_fail "$("$PYTHON" --version) is too old; set PYTHON to a Python 3.10 or newer"
        echo "setup_env: making the virtual environment $VENV"
        "$PYTHON" -m venv "$VENV" ||
            env_fail "python's venv failed (on Debian and Ubuntu: apt install python3-venv)"
    fi
    [ "${SKIP_INSTALL:-}" != 1 ] || return 0
    wanted="$(env_fingerprint)" || env_fail "cannot read pyproject.toml or $CONSTRAINTS"
    if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then
        echo "setup_env: $VENV is up to date"
        return 0
    fi
    echo "setup_env: installing openvclip into $VENV (first time: torch is large, minutes)"
    # --no-compile: Python compiles what it imports, which is much less than what is installed.
    "$PY" -m pip install --disable-pip-version-check --no-input --quiet --progress-bar off \
        --no-compile ${CONSTRAINTS:+-c "$CONSTRAINTS"} -e "$ROOT[dev]" </dev/null ||
        env_fail "pip failed; see above, and INSTALL.md"
    echo "$wanted" >"$stamp"
    echo "setup_env: installed in $((SECONDS - started)) s"
}

env_setup
