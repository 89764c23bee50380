#!/usr/bin/env bash
# Test the untouched CLIP L/14 on the new classes of Kinetics-600.
#
#   DATA=/data/k600 CLIP=~/.cache/clip/ViT-L-14.pt \
#       bash script/testing/raw_l14/k600.sh [KEY VALUE ...]
#
# Results go to OUT; OUT and FORCE: see ../common.sh. ROOT, LISTS and PYTHON: see script/common.sh.
set -euo pipefail

DATA="${DATA:-}"                               # folder with val/
CLIP="${CLIP:-$HOME/.cache/clip/ViT-L-14.pt}"  # the original CLIP
SPLIT="${SPLIT:-split1 split2 split3}"         # split1 .. split3, union (all of their classes)
NUM_GPUS="${NUM_GPUS:-8}"                      # 0 runs on the CPU

source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
test_dataset raw l14 k600 "$@"
