# Sourced by the testing scripts: checks what they were given and tests one protocol after another.
# See ../common.sh for the settings that all scripts share.
#
# A test's results go to OUT/<protocol>, such as OUT/ucf101_split1. By default OUT is
# testing/<checkpoint>_patched_<ratio> next to the checkpoint, and output/raw_<backbone> in the clone
# for the untouched CLIP. Tests that already have a results.json are skipped; FORCE=1 repeats them.
#
# Settings, from the environment:
#   DATA   folder of the videos: for UCF-101 or HMDB-51 the one with the class folders, for Kinetics
#          the one with val/
#   CKPT   the fine-tuned model: swa_2_22.pth, or the folder it is in
#   PATCHING_RATIO  share of the original CLIP      (default: the paper's, 0.5, or 0.6 with l14)
#   SPLIT  one or several. ucf: full, split1..3, half0..9; hmdb: these and union; k600: split1..3,
#          union (all of their classes); k400: val  (default: full; k600: split1..3)

source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"

# protocol_name DATASET SPLIT: the name of a protocol, as openvclip/data/lists/protocols.py lists them.
protocol_name() {
    case "$1" in
    k400) echo kinetics400 ;;
    *) echo "$1_$2" ;;
    esac
}

# protocol_files PROTOCOL: sets FOLDER and MAP, its list's folder and its label map under LISTS.
protocol_files() {
    local stem="${1%_*}"
    case "$1" in
    kinetics400) FOLDER=label_db/weng_compress_full_splits MAP=label_db/k400-index2cls.json ;;
    *_half[0-9])
        FOLDER="zs_label_db/${stem}_half_test/${1: -1}" MAP="$FOLDER/$stem-index2cls.json"
        ;;
    k600_*) FOLDER="zs_label_db/$1" MAP="$FOLDER/k600-openset-index2cls.json" ;;
    *) FOLDER="zs_label_db/$1" MAP="zs_label_db/$stem-index2cls.json" ;;
    esac
}

# use_dataset NAME: sets DATASET, and SPLIT if it is not set.
use_dataset() {
    local split=full
    case "$1" in
    ucf) DATASET=ucf101 ;;
    hmdb) DATASET=hmdb ;;
    k400) DATASET=k400 split=val ;;
    k600) DATASET=k600 split="split1 split2 split3" ;;
    "") fail "DATASET is not given; give ucf, hmdb, k400 or k600" ;;
    *) fail "DATASET is $1; give ucf, hmdb, k400 or k600" ;;
    esac
    SPLIT="${SPLIT:-$split}"
}

# how_to_prepare DATASET: the subcommand of prepare_labels that makes its lists.
how_to_prepare() {
    case "$1" in
    ucf101) echo "ucf101 --videos $DATA --annotations /path/to/ucfTrainTestlist" ;;
    hmdb) echo "hmdb51 --videos $DATA --annotations /path/to/testTrainMulti_7030_splits" ;;
    k600) echo "kinetics600 --videos $DATA" ;;
    k400) echo "kinetics400 --videos $DATA" ;;
    esac
}

# find_checkpoint: CKPT is a checkpoint, or the folder of a training run that has been averaged: then
# the average of START to END, or the only average there is if neither is set.
find_checkpoint() {
    [ -n "${CKPT:-}" ] || fail "set CKPT to swa_2_22.pth, or to the folder it is in"
    if [ -d "$CKPT" ]; then
        local folder="${CKPT%/}" found
        CKPT="$(average_file "$folder")"
        if [ ! -f "$CKPT" ] && [ -z "${START:-}${END:-}" ]; then
            found=("$folder"/swa_*_*.pth)
            [ "${#found[@]}" = 1 ] || fail "$folder has ${#found[@]} averages, ${found[*]##*/}; set \
START and END, or CKPT to one of them"
            [ ! -f "${found[0]}" ] || CKPT="${found[0]}"
        fi
    fi
    [ -f "$CKPT" ] || fail "CKPT is $CKPT, which is not a file; script/training/average.sh makes it"
}

# check_test KIND: everything that can be checked before the first test.
check_test() {
    need_clip
    need_python
    need_launcher
    if [ "$1" = temporal ]; then
        find_checkpoint
        local name
        name="$(basename "$CKPT")"
        OUT="${OUT:-$(dirname "$CKPT")/testing/${name%.*}_patched_$PATCHING_RATIO}"
    else
        OUT="${OUT:-$ROOT/output/raw_$BACKBONE}"
    fi
}

# test_protocol KIND PROTOCOL KEY VALUE ...: one run of run_net.
test_protocol() {
    local kind="$1" protocol="$2" config weights
    shift 2
    if [ -f "$OUT/$protocol/results.json" ] && [ "${FORCE:-}" != 1 ]; then
        echo "$protocol: already tested, $OUT/$protocol/results.json; FORCE=1 tests it again"
        return 0
    fi
    protocol_files "$protocol"
    config="CLIP_vit${BACKBONE}_8x16_STAdapter.yaml"
    weights=(TEST.CUSTOM_LOAD False)
    if [ "$kind" = temporal ]; then
        config="Temporal$config"
        weights=(TEST.CUSTOM_LOAD True TEST.CUSTOM_LOAD_FILE "$CKPT"
            TEST.PATCHING_MODEL True TEST.PATCHING_RATIO "$PATCHING_RATIO")
    fi
    # On a cluster, wait: what follows needs the results.
    JOB_DIR="$OUT/slurm" SLURM_OPTIONS="--wait ${SLURM_OPTIONS:-}" run_net "Kinetics/$config" \
        DATA.PATH_TO_DATA_DIR "$LISTS/$FOLDER" \
        DATA.PATH_PREFIX "$DATA" \
        DATA.PATH_LABEL_SEPARATOR , \
        DATA.INDEX_LABEL_MAPPING_FILE "$LISTS/$MAP" \
        MODEL.NUM_CLASSES "$("$PYTHON" -c 'import json, sys
print(len(json.load(open(sys.argv[1], encoding="utf-8"))))' "$LISTS/$MAP")" \
        MODEL.CLIP_PATH "$CLIP" \
        MODEL.TEXT_CACHE_DIR "$OUT/text_cache" \
        TRAIN.ENABLE False \
        TEST.BATCH_SIZE "$(test_batch)" \
        TEST.NUM_ENSEMBLE_VIEWS 3 \
        TEST.NUM_SPATIAL_CROPS 1 \
        TEST.SAVE_RESULTS_PATH predictions.pth \
        "${weights[@]}" \
        OUTPUT_DIR "$OUT/$protocol" \
        "$@"
}

# test_dataset KIND BACKBONE DATASET KEY VALUE ...: every split that SPLIT names; the needs of all
# of them are checked before the first is started.
test_dataset() {
    local kind="$1" split
    use_backbone "$2"
    use_dataset "$3"
    shift 3
    need_folder DATA "the folder of the videos that the list names"
    check_test "$kind"
    for split in $SPLIT; do
        protocol_files "$(protocol_name "$DATASET" "$split")"
        need_list "$FOLDER" test.csv "$(how_to_prepare "$DATASET")"
        [ -f "$LISTS/$MAP" ] || fail "no label map $LISTS/$MAP; make it: \
$PYTHON tools/prepare_labels.py $(how_to_prepare "$DATASET")"
    done
    for split in $SPLIT; do
        test_protocol "$kind" "$(protocol_name "$DATASET" "$split")" "$@"
    done
}
