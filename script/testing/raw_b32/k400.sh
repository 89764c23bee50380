#!/usr/bin/env bash
# Test the untouched CLIP B/32 on Kinetics-400's validation videos.
#
#   DATA=/data/k400 CLIP=~/.cache/clip/ViT-B-32.pt \
#       bash script/testing/raw_b32/k400.sh [KEY VALUE ...]
#
# Results go to OUT; OUT and FORCE: see ../common.sh. ROOT, LISTS and PYTHON: see script/common.sh.
set -euo pipefail

DATA="${DATA:-}"                               # folder with val/
CLIP="${CLIP:-$HOME/.cache/clip/ViT-B-32.pt}"  # the original CLIP
SPLIT="${SPLIT:-val}"                          # val only
NUM_GPUS="${NUM_GPUS:-8}"                      # 0 runs on the CPU

source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
test_dataset raw b32 k400 "$@"
