#!/usr/bin/env bash
# Average the epochs of a training run: the mean of checkpoints 2 to 22, as in the paper.
#
#   CKPT=output/b16 bash script/training/average.sh BACKBONE
#
# BACKBONE is b32, b16 or l14, and must be the one trained in CKPT.
set -euo pipefail

CKPT="${CKPT:-}"     # folder of the training run
START="${START:-2}"  # first epoch to average
END="${END:-22}"     # last epoch, included

source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
use_backbone "${1:-}"
[ $# = 1 ] || fail "$2 is one argument too many; give BACKBONE only"
OUTPUT="${OUTPUT:-$(average_file "$CKPT")}"  # file to write
need_folder CKPT "the folder of the training"
if [ -f "$CKPT/config.yaml" ]; then
    trained="$(sed -n 's/^  ARCH: *//p' "$CKPT/config.yaml")"
    case "$trained" in
    vitb32 | vitb16 | vitl14)
        [ "$trained" = "vit$BACKBONE" ] ||
            fail "CKPT is $CKPT, a training run of ${trained#vit}, not of $BACKBONE"
        ;;
    esac
fi
need_python
start "$PYTHON" "$ROOT/tools/weight_average.py" --source "$CKPT" --start "$START" --end "$END" \
    --output "$OUTPUT"
