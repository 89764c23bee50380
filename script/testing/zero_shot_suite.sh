#!/usr/bin/env bash
# Every zero-shot protocol for one checkpoint (or the untouched CLIP), then the paper-style table.
#
#   BACKBONE=b16 DATA=/data CKPT=output/b16 bash script/testing/zero_shot_suite.sh [KEY VALUE ...]
#
# UCF-101, HMDB-51 and Kinetics-600 are tested once each, on a list that has all videos and classes
# of the others (hmdb_union, k600_union; for UCF-101 it is the full list); the others' results are
# derived from its predictions. The lists are compared before anything is tested. EACH=1 tests every
# protocol by itself instead, which decodes six times as many videos.
# A dataset without a folder is skipped. If a protocol fails, the others still run; it is listed at
# the end, and the suite exits with 1. Run it again to resume after an interruption.
set -euo pipefail

BACKBONE="${BACKBONE:-b16}" # b32, b16 or l14
KIND="${KIND:-temporal}"   # temporal: fine-tuned; raw: the untouched CLIP
DATA="${DATA:-}"           # folder of the datasets' folders: UCF-101, hmdb51, k600, k400; or:
UCF="${UCF:-}"             # the class folders of UCF-101
HMDB="${HMDB:-}"           # the class folders of HMDB-51
K600="${K600:-}"           # Kinetics-600, with val/
K400="${K400:-}"           # Kinetics-400, with val/
EACH="${EACH:-0}"          # 1: decode again for every protocol

source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

use_backbone "$BACKBONE"
[ "$KIND" = temporal ] || [ "$KIND" = raw ] || fail "KIND is $KIND; give temporal or raw"
check_test "$KIND"

NUMBERS="split1 split2 split3"
HALVES="half0 half1 half2 half3 half4 half5 half6 half7 half8 half9"

FAILED=() # names of protocols and other steps

# attempt COMMAND ...: its exit code, in CODE, does not end the suite, unless it was interrupted.
attempt() {
    set +e
    (
        set -e
        "$@"
    )
    CODE=$?
    set -e
    # A request to stop: Ctrl-C, SIGTERM, or preemption by a cluster.
    case "$CODE" in 75 | 130 | 143) exit "$CODE" ;; esac
}

# derive ARGUMENTS ...: derive_results.py on the lists of this suite.
derive() { start "$PYTHON" "$ROOT/tools/derive_results.py" --root "$LISTS" "$@"; }

# check_dataset DATASET WHOLE PARTS: the lists of what will be tested, before anything is.
check_dataset() {
    local dataset="$1" whole="$2" parts="$3" split
    for split in $(tested "$whole" "$parts"); do
        protocol_files "$(protocol_name "$dataset" "$split")"
        need_list "$FOLDER" test.csv "$(how_to_prepare "$dataset")"
    done
    if [ "$EACH" != 1 ] && [ -n "$parts" ]; then
        attempt derive --check-lists "$(protocol_name "$dataset" "$whole")"
        [ "$CODE" = 0 ] || echo "$(basename "$0"): continuing without these" >&2
    fi
}

# run_dataset DATASET WHOLE PARTS: test it, and derive the rest.
run_dataset() {
    local dataset="$1" whole="$2" parts="$3" split name
    for split in $(tested "$whole" "$parts"); do
        name="$(protocol_name "$dataset" "$split")"
        attempt test_protocol "$KIND" "$name" "${OPTS[@]}"
        [ "$CODE" = 0 ] || FAILED+=("$name")
    done
    if [ "$EACH" != 1 ] && [ -n "$parts" ]; then
        [ "$CODE" != 0 ] || attempt derive --output "$OUT" --from "$OUT/$name" --protocol all
        [ "$CODE" = 0 ] || note_underived "$dataset" "$name" "$parts"
    fi
}

# tested WHOLE PARTS: the splits to test.
tested() {
    if [ "$EACH" = 1 ]; then echo "${1#union} $2"; else echo "$1"; fi
}

# note_underived DATASET WHOLE PARTS: those that have a list but no results.
note_underived() {
    local split name found=0
    for split in $3; do
        name="$(protocol_name "$1" "$split")"
        protocol_files "$name"
        if [ -f "$LISTS/$FOLDER/test.csv" ] && [ ! -f "$OUT/$name/results.json" ]; then
            FAILED+=("$name")
            found=1
        fi
    done
    [ "$found" = 1 ] || FAILED+=("what follows from $2")
}

# find_dataset NAME FOLDER TITLE: sets NAME, if it is not set, to DATA/FOLDER if that exists.
find_dataset() {
    if [ -n "${!1}" ]; then
        need_folder "$1" "the folder of the dataset"
    elif [ -n "$DATA" ] && [ -d "$DATA/$2" ]; then
        printf -v "$1" %s "$DATA/$2"
    else
        echo "skipping $3: $1 is not set, and DATA '$DATA' has no $2"
    fi
}

# datasets DO: check or run every dataset that was found; each has its own DATA.
datasets() {
    if [ -n "$UCF" ]; then DATA="$UCF"; "$1_dataset" ucf101 full "$NUMBERS $HALVES"; fi
    if [ -n "$HMDB" ]; then DATA="$HMDB"; "$1_dataset" hmdb union "full $NUMBERS $HALVES"; fi
    if [ -n "$K600" ]; then DATA="$K600"; "$1_dataset" k600 union "$NUMBERS"; fi
    if [ -n "$K400" ]; then DATA="$K400"; "$1_dataset" k400 val ""; fi
}

find_dataset UCF UCF-101 UCF-101
find_dataset HMDB hmdb51 HMDB-51
find_dataset K600 k600 Kinetics-600
find_dataset K400 k400 Kinetics-400
[ -n "$UCF$HMDB$K600$K400" ] || fail "no dataset found; set DATA, or UCF, HMDB, K600, K400"

OPTS=("$@")
datasets check
datasets run
attempt start "$PYTHON" "$ROOT/tools/summarize.py" "$OUT"
[ "$CODE" = 0 ] || FAILED+=("the table")
if [ "${#FAILED[@]}" -gt 0 ]; then
    printf -v list ', %s' "${FAILED[@]}"
    fail "failed, see above: ${list:2}"
fi
