#!/usr/bin/env bash
# Every zero-shot protocol for one checkpoint (or the untouched CLIP), then the paper-style table.
#
#   BACKBONE=b16 DATA=/data CKPT=output/b16 CLIP=~/.cache/clip/ViT-B-16.pt \
#       bash script/testing/zero_shot_suite.sh [KEY VALUE ...]
#
# UCF-101, HMDB-51 and Kinetics-600 are tested once each: the official splits and the half draws
# hold only videos and classes of the full list, and their results follow from its predictions.
# EACH=1 tests every protocol by itself instead, which decodes six times as many videos.
# A dataset without a folder is left out; run it again to go on after an interruption.
set -euo pipefail

BACKBONE="${BACKBONE:-b16}" # b32, b16 or l14
KIND="${KIND:-temporal}"   # temporal: fine-tuned; raw: the untouched CLIP
DATA="${DATA:-}"           # folder of the datasets' folders: UCF-101, hmdb51, k600, k400; or:
UCF="${UCF:-}"             # the class folders of UCF-101
HMDB="${HMDB:-}"           # the class folders of HMDB-51
K600="${K600:-}"           # Kinetics-600, with val/
K400="${K400:-}"           # Kinetics-400, with val/
CKPT="${CKPT:-}"           # swa_2_22.pth, or the folder it is in
EACH="${EACH:-0}"          # 1: decode again for every protocol
NUM_GPUS="${NUM_GPUS:-8}"  # 0 runs on the CPU

case "$BACKBONE" in
b32) ARCHIVE=ViT-B-32.pt RATIO=0.5 ;;
b16) ARCHIVE=ViT-B-16.pt RATIO=0.5 ;;
l14) ARCHIVE=ViT-L-14.pt RATIO=0.6 ;;
*) echo "BACKBONE is $BACKBONE; give b32, b16 or l14" >&2 && exit 1 ;;
esac
CLIP="${CLIP:-$HOME/.cache/clip/$ARCHIVE}"
PATCHING_RATIO="${PATCHING_RATIO:-$RATIO}"

source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

[ "$KIND" = temporal ] || [ "$KIND" = raw ] || fail "KIND is $KIND; give temporal or raw"
check_test "$KIND" "$BACKBONE"

NUMBERS="split1 split2 split3"
HALVES="half0 half1 half2 half3 half4 half5 half6 half7 half8 half9"

# suite DATASET DO WHOLE PARTS: check, test or derive what the table needs of a dataset.
suite() {
    local dataset="$1" act="$2" whole="$3" parts="$4" split
    if [ "$EACH" = 1 ]; then whole="${whole#union} $parts"; fi
    for split in $whole; do
        protocol_files "$(protocol_name "$dataset" "$split")"
        case "$act" in
        check) need_list "$FOLDER" test.csv "$(how_to_prepare "$dataset")" ;;
        run)
            test_protocol "$KIND" "$BACKBONE" "$(protocol_name "$dataset" "$split")" "${OPTS[@]}"
            ;;
        esac
    done
    if [ "$act" = run ] && [ "$EACH" != 1 ] && [ -n "$parts" ]; then
        "$PYTHON" "$ROOT/tools/derive_results.py" --root "$LISTS" --output "$OUT" \
            --from "$OUT/$(protocol_name "$dataset" "$whole")" --protocol all
    fi
}

# find_dataset NAME FOLDER: sets NAME, if it is not set, to DATA/FOLDER where that is there.
find_dataset() {
    if [ -n "${!1}" ]; then
        need_folder "$1" "the folder of the dataset"
    elif [ -n "$DATA" ] && [ -d "$DATA/$2" ]; then
        printf -v "$1" %s "$DATA/$2"
    else
        echo "$1 is left out: it is not set, and DATA '$DATA' has no $2"
    fi
}

# datasets DO: every dataset that was found; each has its own DATA.
datasets() {
    if [ -n "$UCF" ]; then DATA="$UCF"; suite ucf101 "$1" full "$NUMBERS $HALVES"; fi
    if [ -n "$HMDB" ]; then DATA="$HMDB"; suite hmdb "$1" full "$NUMBERS $HALVES"; fi
    if [ -n "$K600" ]; then DATA="$K600"; suite k600 "$1" union "$NUMBERS"; fi
    if [ -n "$K400" ]; then DATA="$K400"; suite k400 "$1" val ""; fi
}

find_dataset UCF UCF-101
find_dataset HMDB hmdb51
find_dataset K600 k600
find_dataset K400 k400
[ -n "$UCF$HMDB$K600$K400" ] || fail "no dataset found; set DATA, or UCF, HMDB, K600, K400"

OPTS=("$@")
datasets check
datasets run
"$PYTHON" "$ROOT/tools/summarize.py" "$OUT"
