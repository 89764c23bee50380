#!/usr/bin/env bash
# Average the epochs of a training: the mean of checkpoints 2 to 22, as the paper does.
#
#   CKPT=output/b16 bash script/training/average.sh
set -euo pipefail

CKPT="${CKPT:-}"                               # folder of the training
START="${START:-2}"                            # first epoch that is averaged
END="${END:-22}"                               # last epoch, included

source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
OUTPUT="${OUTPUT:-$(average_file "$CKPT")}"      # file to write
need_folder CKPT "the folder of the training"
need_python
"$PYTHON" "$ROOT/tools/weight_average.py" --source "$CKPT" --start "$START" --end "$END" \
    --output "$OUTPUT"
