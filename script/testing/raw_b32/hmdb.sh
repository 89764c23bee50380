#!/usr/bin/env bash
# Test the untouched CLIP B/32 on HMDB-51.
#
#   DATA=/data/hmdb51 CLIP=~/.cache/clip/ViT-B-32.pt \
#       bash script/testing/raw_b32/hmdb.sh [KEY VALUE ...]
#
# Results go to OUT; OUT and FORCE: see ../common.sh. ROOT, LISTS and PYTHON: see script/common.sh.
set -euo pipefail

DATA="${DATA:-}"                               # the class folders of HMDB-51
CLIP="${CLIP:-$HOME/.cache/clip/ViT-B-32.pt}"  # the original CLIP
SPLIT="${SPLIT:-full}"                         # one or several of full, split1..3, half0..9, union
NUM_GPUS="${NUM_GPUS:-8}"                      # 0 runs on the CPU

source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
test_dataset raw b32 hmdb "$@"
