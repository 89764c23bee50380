#!/usr/bin/env bash
# Test a fine-tuned model zero-shot on a dataset, patched with CLIP at the paper's ratio.
#
#   DATA=/data/UCF-101 CKPT=output/b16 \
#       bash script/testing/zero_shot.sh BACKBONE DATASET [KEY VALUE ...]
#
# BACKBONE is b32, b16 or l14; DATASET is ucf, hmdb, k400 or k600. For other settings see common.sh
# in this folder and script/common.sh.
set -euo pipefail

source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
test_dataset temporal "${1:-}" "${2:-}" "${@:3}"
