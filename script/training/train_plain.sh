#!/usr/bin/env bash
# The baseline: plain fine-tuning on Kinetics-400, everything else as in train_openvclip.sh.
#
#   DATA=/data/k400 CKPT=output/b16_plain bash script/training/train_plain.sh BACKBONE [KEY VALUE ...]
#
# BACKBONE is b32, b16 or l14. For other settings see common.sh in this folder and script/common.sh.
set -euo pipefail

source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
train "${1:-}" TRAIN.LINEAR_CONNECT_CLIMB False "${@:2}"
