#!/usr/bin/env bash
# Makes the virtual environment if need be (see script/setup_env.sh) and runs the tests in it.
# Arguments go to pytest:  bash script/run_tests.sh tests/config -k nearest
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup_env.sh"

cd "$ROOT"
# Many small tensors: threads would cost more than they gain, and several processes run together.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" MPLBACKEND=Agg
show "$PY" -m pytest "$@"
exec "$PY" -m pytest "$@" </dev/null
