#!/usr/bin/env bash
# After script/quickstart.sh: also trains on captions of the same clips, with both towers, and
# continues as the quickstart does: averages, patches, tests zero-shot and video-text retrieval, and
# puts everything into one table. Takes about five minutes on two CPU cores.
#
#   bash script/quickstart_captions.sh
#
# Run it again and it skips what is done. Settings, from the environment: OUT (the quickstart's
# folder, runs/quickstart), SEED (2, as in the quickstart), and those of script/setup_env.sh.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup_env.sh"
cd "$ROOT"

OUT="${OUT:-runs/quickstart}"
SEED="${SEED:-2}"
RATIOS="[0.0,0.2,0.4,0.5,0.6,0.65,0.7,0.75,0.8,1.0]"
export MPLBACKEND=Agg

say() { printf '\n== %s ==\n' "$*"; }

fail() {
    echo "quickstart_captions: $*" >&2
    exit 1
}

[ -f "$OUT/clip.pt" ] && [ -f "$OUT/seed" ] || fail "$OUT has no quickstart; run script/quickstart.sh first"
[ "$(cat "$OUT/seed")" = "$SEED" ] || fail "$OUT was made with seed $(cat "$OUT/seed"), not $SEED; set SEED or OUT"

# run CONFIG KEY VALUE ...: run_net on the demo's data.
run() {
    local config="$1"
    shift
    start "$PY" tools/run_net.py --cfg "configs/Synthetic/$config.yaml" --opts \
        MODEL.CLIP_PATH "$OUT/clip.pt" MODEL.TEXT_CACHE_DIR "$OUT/text_cache" RNG_SEED "$SEED" \
        DATA.PATH_PREFIX "$OUT/data/videos" "$@"
}

# evaluate FOLDER KEY VALUE ...: test the averaged weights at all ratios, unless that is done.
evaluate() {
    local folder="$OUT/test/captions_swa/$1"
    shift
    if [ -f "$folder/results.json" ]; then return; fi
    run test TEST.CUSTOM_LOAD True TEST.CUSTOM_LOAD_FILE "$OUT/captions/swa_5_8.pth" \
        TEST.PATCHING_RATIOS "$RATIOS" OUTPUT_DIR "$folder" "$@"
}

say "captions of the training clips, and lists of pairs to test retrieval on"
start "$PY" tools/make_demo.py data --output "$OUT/data" --seed "$SEED"
start "$PY" tools/prepare_captions.py --captions "$OUT/data/captions/train.json" \
    --output "$OUT/captions.sqlite" --list "$OUT/data/trained/train.csv" --separator ' '

say "interpolated training of both towers, with captions"
run captions DATA.PATH_TO_DATA_DIR "$OUT/data/trained" \
    DATA.INDEX_LABEL_MAPPING_FILE "$OUT/data/trained-index2cls.json" \
    TRAIN.CAPTION.FILE "$OUT/captions.sqlite" OUTPUT_DIR "$OUT/captions" TEST.ENABLE False

say "averaging epochs 5 to 8"
start "$PY" tools/weight_average.py --source "$OUT/captions" --start 5 --end 8 \
    --output "$OUT/captions/swa_5_8.pth"

say "zero-shot tests"
for set in trained unseen knew; do
    map="$OUT/data/$set-index2cls.json"
    evaluate "$set" DATA.PATH_TO_DATA_DIR "$OUT/data/$set" DATA.INDEX_LABEL_MAPPING_FILE "$map" \
        MODEL.NUM_CLASSES "$(grep -c '": "' "$map")"
done

say "retrieval tests"
for set in trained unseen; do
    evaluate "retrieval_$set" TEST.TASK retrieval TEST.RETRIEVAL_FILE "$OUT/data/retrieval/$set.json"
done

say "the tables"
start "$PY" tools/summarize.py "$OUT/test/captions_swa" --output "$OUT/test/captions_swa"
