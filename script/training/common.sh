# Sourced by the training scripts: checks their settings and starts training on
# Kinetics-400. See ../common.sh for the settings that all scripts share.
#
# DATA is the folder with train/ and val/, CKPT the folder for checkpoints and results. On Slurm set
# LAUNCHER=slurm NODES=2 SLURM_OPTIONS="--partition gpu". Start a script again to resume.

BATCH_SIZE="${BATCH_SIZE:-64}"          # videos per batch, over all GPUs
VIDEOS_AT_ONCE="${VIDEOS_AT_ONCE:-8}"   # of which a GPU computes this many at a time
EPOCHS="${EPOCHS:-22}"                  # 2 of them warm-up

source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"

LIST=label_db/weng_compress_full_splits

# train BACKBONE KEY VALUE ...: train, then test the last epoch on the validation videos.
train() {
    local parts
    use_backbone "$1"
    shift
    need_folder DATA "the folder of Kinetics-400 (with train/ and val/)"
    [ -n "${CKPT:-}" ] || fail "set CKPT to the folder for checkpoints and results"
    need_clip
    need_python
    need_launcher
    need_list "$LIST" train.csv "kinetics400 --videos $DATA"
    need_list "$LIST" val.csv "kinetics400 --videos $DATA"
    local shared
    shared="$(processes)"
    ((BATCH_SIZE % shared == 0)) ||
        fail "BATCH_SIZE is $BATCH_SIZE, which $shared processes cannot share equally"
    # With fewer GPUs the batch keeps the size that the rates fit: each computes its share in parts.
    parts=$(((BATCH_SIZE / shared + VIDEOS_AT_ONCE - 1) / VIDEOS_AT_ONCE))
    JOB_DIR="$CKPT/slurm" run_net "Kinetics/TemporalCLIP_vit${BACKBONE}_8x16_STAdapter.yaml" \
        DATA.PATH_TO_DATA_DIR "$LISTS/$LIST" \
        DATA.PATH_PREFIX "$DATA" \
        DATA.PATH_LABEL_SEPARATOR , \
        DATA.INDEX_LABEL_MAPPING_FILE "$LISTS/label_db/k400-index2cls.json" \
        MODEL.CLIP_PATH "$CLIP" \
        TRAIN.BATCH_SIZE "$BATCH_SIZE" \
        TRAIN.GRAD_ACCUM_STEPS "$parts" \
        TEST.BATCH_SIZE "$(test_batch)" \
        SOLVER.MAX_EPOCH "$EPOCHS" \
        OUTPUT_DIR "$CKPT" \
        "$@"
}
