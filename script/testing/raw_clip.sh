#!/usr/bin/env bash
# Test the untouched CLIP on a dataset.
#
#   DATA=/data/UCF-101 bash script/testing/raw_clip.sh BACKBONE DATASET [KEY VALUE ...]
#
# BACKBONE is b32, b16 or l14; DATASET is ucf, hmdb, k400 or k600. For other settings see common.sh
# in this folder and script/common.sh.
set -euo pipefail

source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
test_dataset raw "${1:-}" "${2:-}" "${@:3}"
