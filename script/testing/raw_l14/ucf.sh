#!/usr/bin/env bash
# Test the untouched CLIP L/14 on UCF-101.
#
#   DATA=/data/UCF-101 CLIP=~/.cache/clip/ViT-L-14.pt \
#       bash script/testing/raw_l14/ucf.sh [KEY VALUE ...]
#
# Results go to OUT; OUT and FORCE: see ../common.sh. ROOT, LISTS and PYTHON: see script/common.sh.
set -euo pipefail

DATA="${DATA:-}"                               # the class folders of UCF-101
CLIP="${CLIP:-$HOME/.cache/clip/ViT-L-14.pt}"  # the original CLIP
SPLIT="${SPLIT:-full}"                         # full, split1 .. split3, half0 .. half9, or several
NUM_GPUS="${NUM_GPUS:-8}"                      # 0 runs on the CPU

source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
test_dataset raw l14 ucf101 "$@"
