#!/usr/bin/env bash
# Open-VCLIP's recipe with L/14: interpolated training on Kinetics-400, 22 epochs, batch 64.
#
#   DATA=/data/k400 CLIP=~/.cache/clip/ViT-L-14.pt CKPT=output/l14 \
#       bash script/training/temporal_l14/train_openvclip.sh [KEY VALUE ...]
#
# On Slurm: LAUNCHER=slurm NODES=2 SLURM_OPTIONS="--partition gpu". Start it again to resume.
# ROOT, LISTS and PYTHON: see script/common.sh.
set -euo pipefail

DATA="${DATA:-}"                               # folder with train/ and val/
CLIP="${CLIP:-$HOME/.cache/clip/ViT-L-14.pt}"  # the original CLIP
CKPT="${CKPT:-}"                               # folder for checkpoints and results
BATCH_SIZE="${BATCH_SIZE:-64}"                 # videos of a batch, over all GPUs
VIDEOS_AT_ONCE="${VIDEOS_AT_ONCE:-8}"          # of which a GPU computes so many at once
EPOCHS="${EPOCHS:-22}"                         # 2 of them warm-up
NUM_GPUS="${NUM_GPUS:-8}"                      # of this machine, or of each node; 0 runs on the CPU
CONNECT_RATIO="${CONNECT_RATIO:-0.5}"          # weight of the connect loss
CONNECT_L="${CONNECT_L:-0.0}"                  # least share of CLIP that is mixed in
CONNECT_R="${CONNECT_R:-0.6}"                  # greatest share of CLIP

source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
train l14 \
    TRAIN.LINEAR_CONNECT_CLIMB True \
    TRAIN.LINEAR_CONNECT_LOSS_RATIO "$CONNECT_RATIO" \
    TRAIN.LINEAR_CONNECT_SAMPLE_L "$CONNECT_L" \
    TRAIN.LINEAR_CONNECT_SAMPLE_R "$CONNECT_R" \
    "$@"
