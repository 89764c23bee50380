#!/usr/bin/env bash
# Open-VCLIP's recipe: interpolated training on Kinetics-400, 22 epochs, batch 64.
#
#   DATA=/data/k400 CKPT=output/b16 bash script/training/train_openvclip.sh BACKBONE [KEY VALUE ...]
#
# BACKBONE is b32, b16 or l14. For other settings see common.sh in this folder and script/common.sh.
set -euo pipefail

CONNECT_RATIO="${CONNECT_RATIO:-0.5}" # weight of the connect loss
CONNECT_L="${CONNECT_L:-0.0}"         # smallest share of CLIP that is mixed in
CONNECT_R="${CONNECT_R:-0.6}"         # largest share of CLIP

source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
train "${1:-}" \
    TRAIN.LINEAR_CONNECT_CLIMB True \
    TRAIN.LINEAR_CONNECT_LOSS_RATIO "$CONNECT_RATIO" \
    TRAIN.LINEAR_CONNECT_SAMPLE_L "$CONNECT_L" \
    TRAIN.LINEAR_CONNECT_SAMPLE_R "$CONNECT_R" \
    "${@:2}"
