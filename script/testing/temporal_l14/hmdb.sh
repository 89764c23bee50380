#!/usr/bin/env bash
# Test a fine-tuned L/14 on HMDB-51, patched with CLIP at the paper's ratio.
#
#   DATA=/data/hmdb51 CKPT=output/l14 CLIP=~/.cache/clip/ViT-L-14.pt \
#       bash script/testing/temporal_l14/hmdb.sh [KEY VALUE ...]
#
# Results go to OUT; OUT and FORCE: see ../common.sh. ROOT, LISTS and PYTHON: see script/common.sh.
set -euo pipefail

DATA="${DATA:-}"                               # the class folders of HMDB-51
CLIP="${CLIP:-$HOME/.cache/clip/ViT-L-14.pt}"  # the original CLIP
CKPT="${CKPT:-}"                               # swa_2_22.pth, or the folder it is in
PATCHING_RATIO="${PATCHING_RATIO:-0.6}"        # share of the original CLIP
SPLIT="${SPLIT:-full}"                         # one or several of full, split1..3, half0..9, union
NUM_GPUS="${NUM_GPUS:-8}"                      # 0 runs on the CPU

source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
test_dataset temporal l14 hmdb "$@"
