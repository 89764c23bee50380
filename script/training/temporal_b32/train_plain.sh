#!/usr/bin/env bash
# The baseline: plain fine-tuning of B/32 on Kinetics-400, all else as in train_openvclip.sh.
#
#   DATA=/data/k400 CLIP=~/.cache/clip/ViT-B-32.pt CKPT=output/b32_plain \
#       bash script/training/temporal_b32/train_plain.sh [KEY VALUE ...]
#
# On Slurm: LAUNCHER=slurm NODES=2 SLURM_OPTIONS="--partition gpu". Start it again to resume.
# ROOT, LISTS and PYTHON: see script/common.sh.
set -euo pipefail

DATA="${DATA:-}"                               # folder with train/ and val/
CLIP="${CLIP:-$HOME/.cache/clip/ViT-B-32.pt}"  # the original CLIP
CKPT="${CKPT:-}"                               # folder for checkpoints and results
BATCH_SIZE="${BATCH_SIZE:-64}"                 # videos of a batch, over all GPUs
VIDEOS_AT_ONCE="${VIDEOS_AT_ONCE:-8}"          # of which a GPU computes so many at once
EPOCHS="${EPOCHS:-22}"                         # 2 of them warm-up
NUM_GPUS="${NUM_GPUS:-8}"                      # of this machine, or of each node; 0 runs on the CPU

source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
train b32 TRAIN.LINEAR_CONNECT_CLIMB False "$@"
