# Sourced by the scripts of training/ and testing/: defaults of the common settings, checks, and
# how run_net is started. Nothing here starts anything by itself.
#
# Settings, from the environment:
#   ROOT      the clone of openvclip                    (default: the one this file is in)
#   LISTS     folder with label_db and zs_label_db      (default: ROOT)
#   PYTHON    the Python to run                         (default: that of the active environment,
#             then the clone's .venv, then python3)
#   CLIP      the original CLIP                         (default: ~/.cache/clip/ViT-B-16.pt for b16)
#   NUM_GPUS  GPUs of this machine, or of each node; 0 runs on the CPU      (default: 8)
#   START, END  first and last epoch that average.sh averages, and that the testing scripts look for
#             if CKPT is a folder                       (default: 2 and 22, as in the paper)
#   LAUNCHER  slurm: queue the run on NODES nodes (default: 1), with the options of
#             tools/run_with_submitit.py in SLURM_OPTIONS, such as "--partition gpu"
# A script's arguments, KEY VALUE ..., override everything else. Commands are printed before
# they are run.

source "$(dirname "${BASH_SOURCE[0]}")/start.sh"

fail() {
    echo "$(basename "$0"): $*" >&2
    exit 1
}

CLONE="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
ROOT="${ROOT:-$CLONE}"
[ -f "$ROOT/tools/run_net.py" ] || fail "ROOT is $ROOT, which is not a clone of openvclip"
ROOT="$(cd "$ROOT" && pwd)"
# This clone is run, whatever is installed in the environment.
export PYTHONPATH="$ROOT${PYTHONPATH:+:$PYTHONPATH}"
LISTS="${LISTS:-$ROOT}"
NUM_GPUS="${NUM_GPUS:-8}"

if [ -z "${PYTHON:-}" ]; then
    if [ -n "${VIRTUAL_ENV:-}${CONDA_PREFIX:-}" ]; then
        PYTHON=python
    elif [ -x "$ROOT/.venv/bin/python" ]; then
        PYTHON="$ROOT/.venv/bin/python"
    else
        PYTHON=python3
    fi
fi

# use_backbone NAME: sets BACKBONE, and CLIP and PATCHING_RATIO (the paper's) if they are not set.
use_backbone() {
    local archive ratio=0.5
    case "$1" in
    b32) archive=ViT-B-32.pt ;;
    b16) archive=ViT-B-16.pt ;;
    l14) archive=ViT-L-14.pt ratio=0.6 ;;
    "") fail "BACKBONE is not given; give b32, b16 or l14" ;;
    *) fail "BACKBONE is $1; give b32, b16 or l14" ;;
    esac
    BACKBONE="$1" CLIP="${CLIP:-$HOME/.cache/clip/$archive}"
    PATCHING_RATIO="${PATCHING_RATIO:-$ratio}"
}

# need_folder NAME WHAT: the setting NAME must name a folder.
need_folder() {
    [ -n "${!1:-}" ] || fail "set $1 to $2"
    [ -d "${!1}" ] || fail "$1 is ${!1}, which is not a folder; set it to $2"
}

# need_clip: CLIP must be a file, or an open_clip name such as ViT-B-16.
need_clip() {
    case "$CLIP" in
    */* | *.pt | *.pth | *.pyth | *.bin | *.safetensors)
        [ -f "$CLIP" ] || fail "CLIP is $CLIP, which is not a file; set it to OpenAI's archive, to \
other CLIP weights or to a name of open_clip"
        ;;
    esac
}

need_python() {
    command -v "$PYTHON" >/dev/null || fail "PYTHON is $PYTHON, which does not exist"
    "$PYTHON" -c 'import importlib.util as u, sys
sys.exit(any(u.find_spec(name) is None for name in ("torch", "av", "fvcore")))' ||
        fail "PYTHON is $PYTHON, which lacks torch, av or fvcore; see INSTALL.md"
    [[ "$NUM_GPUS" =~ ^[0-9]+$ ]] || fail "NUM_GPUS is $NUM_GPUS; give a number, 0 for the CPU"
}

# need_launcher: LAUNCHER must be empty, or slurm on a machine that can queue a run.
need_launcher() {
    case "${LAUNCHER:-}" in
    "") ;;
    slurm)
        command -v sbatch >/dev/null && command -v srun >/dev/null ||
            fail "LAUNCHER=slurm, but there is no sbatch/srun here; start it on a node of the \
cluster that has them, or leave LAUNCHER empty to run on this machine"
        ;;
    *) fail "LAUNCHER is $LAUNCHER; leave it empty, or set it to slurm" ;;
    esac
}

# need_list FOLDER FILE HOW: the list that HOW, a subcommand of prepare_labels, makes.
need_list() {
    [ -f "$LISTS/$1/$2" ] || fail "no list $LISTS/$1/$2; make it: \
$PYTHON tools/prepare_labels.py $3"
}

# average_file FOLDER: the average of the training run in FOLDER, where average.sh writes it and the
# tests look for it.
average_file() { echo "${1%/}/swa_${START:-2}_${END:-22}.pth"; }

# processes: number of processes that share a batch, over all nodes.
processes() { echo $(((NUM_GPUS > 0 ? NUM_GPUS : 1) * ${NODES:-1})); }

# test_batch: clips per test batch; a process's share consists of whole videos of 3 views.
test_batch() {
    local clips=30
    [ "$BACKBONE" != l14 ] || clips=18
    [ "$NUM_GPUS" != 0 ] || clips=6
    echo $((clips * $(processes)))
}

# run_net CONFIG KEY VALUE ...: start it on this machine or (LAUNCHER=slurm) on a cluster, whose
# logs then go to JOB_DIR.
run_net() {
    local config="$ROOT/configs/$1"
    shift
    # Many CPUs emulate bf16, which is slower than fp32 there.
    [ "$NUM_GPUS" != 0 ] || set -- TRAIN.MIXED_PRECISION False "$@"
    need_launcher
    if [ "${LAUNCHER:-}" = slurm ]; then
        start "$PYTHON" "$ROOT/tools/run_with_submitit.py" --cfg "$config" --num_gpus "$NUM_GPUS" \
            --num_shards "${NODES:-1}" --job_dir "$JOB_DIR" --cluster slurm ${SLURM_OPTIONS:-} \
            --opts "$@"
    else
        start "$PYTHON" "$ROOT/tools/run_net.py" --cfg "$config" --opts NUM_GPUS "$NUM_GPUS" "$@"
    fi
}
