#!/usr/bin/env bash
# The whole method on real video in minutes, on a CPU: makes a virtual environment, videos and a
# small CLIP; fine-tunes it plainly and with interpolated training; averages, patches and tests
# zero-shot; prints one table and draws accuracy against the patching ratio.
#
#   bash script/quickstart.sh            everything goes to runs/quickstart
#   SEED=3 OUT=runs/seed3 bash script/quickstart.sh
#
# Run it again and it skips what is done and resumes what was cut off.
#
# Settings, from the environment: OUT (folder), SEED (of data, CLIP and training; 2 by default, as
# 0 and 1 were used to find the recipe), and those of script/setup_env.sh (VENV, PYTHON, ...).
set -euo pipefail
STARTED=$SECONDS
tests=()
source "$(dirname "${BASH_SOURCE[0]}")/setup_env.sh"
cd "$ROOT"

OUT="${OUT:-runs/quickstart}"
SEED="${SEED:-2}"
export MPLBACKEND=Agg

# Results of another seed must not be mixed in.
mkdir -p "$OUT"
if [ -f "$OUT/seed" ] && [ "$(cat "$OUT/seed")" != "$SEED" ]; then
    echo "quickstart: $OUT was made with seed $(cat "$OUT/seed"), not $SEED; choose another OUT" >&2
    exit 1
fi
echo "$SEED" >"$OUT/seed"

say() { printf '\n== %s (%d:%02d since the start) ==\n' "$*" $(((SECONDS - STARTED) / 60)) $(((SECONDS - STARTED) % 60)); }

# run CONFIG KEY VALUE ...: run_net on the demo's data.
run() {
    local config="$1"
    shift
    start "$PY" tools/run_net.py --cfg "configs/Synthetic/$config.yaml" --opts \
        MODEL.CLIP_PATH "$OUT/clip.pt" MODEL.TEXT_CACHE_DIR "$OUT/text_cache" RNG_SEED "$SEED" "$@"
}

# train NAME: fine-tune with configs/Synthetic/NAME.yaml, unless it is done.
train() {
    if [ -f "$OUT/$1/done" ]; then echo "$1: done before"; return; fi
    run "$1" DATA.PATH_TO_DATA_DIR "$OUT/data/trained" DATA.PATH_PREFIX "$OUT/data/videos" \
        DATA.INDEX_LABEL_MAPPING_FILE "$OUT/data/trained-index2cls.json" \
        OUTPUT_DIR "$OUT/$1" TEST.ENABLE False
    touch "$OUT/$1/done"
}

# evaluate NAME WEIGHTS RATIOS SET ...: test weights zero-shot on the sets, unless that is done.
evaluate() {
    local name="$1" weights="$2" ratios="$3" set map
    shift 3
    for set in "$@"; do
        if [ -f "$OUT/test/$name/$set/results.json" ]; then continue; fi
        map="${set#val_}"
        run test DATA.PATH_TO_DATA_DIR "$OUT/data/$set" DATA.PATH_PREFIX "$OUT/data/videos" \
            DATA.INDEX_LABEL_MAPPING_FILE "$OUT/data/$map-index2cls.json" \
            MODEL.NUM_CLASSES "$(grep -c '": "' "$OUT/data/$map-index2cls.json")" \
            TEST.CUSTOM_LOAD True TEST.CUSTOM_LOAD_FILE "$weights" \
            TEST.PATCHING_RATIOS "$ratios" OUTPUT_DIR "$OUT/test/$name/$set"
    done
}

say "videos, lists and class names"
start "$PY" tools/make_demo.py data --output "$OUT/data" --seed "$SEED"

say "a small CLIP, pretrained on captioned stills of the same world"
start "$PY" tools/make_demo.py clip --output "$OUT/clip.pt" --seed "$SEED"

say "plain fine-tuning"
train plain

say "interpolated training"
train interpolated

say "averaging epochs 5 to 8"
for name in plain interpolated; do
    if [ ! -f "$OUT/$name/swa_5_8.pth" ]; then
        start "$PY" tools/weight_average.py --source "$OUT/$name" --start 5 --end 8 \
            --output "$OUT/$name/swa_5_8.pth"
    fi
done

say "zero-shot tests: each video is decoded once for all patching ratios"
RATIOS="[0.0,0.2,0.4,0.5,0.6,0.65,0.7,0.75,0.8,1.0]"
# test_run NAME: everything that is tested of a training run.
test_run() {
    evaluate "$1" "$OUT/$1/checkpoints/checkpoint_epoch_00008.pyth" "[0.0]" trained unseen knew
    evaluate "$1_swa" "$OUT/$1/swa_5_8.pth" "$RATIOS" val_trained val_knew trained unseen knew
}
# The two runs side by side, on one core each; the log says which run a line belongs to.
for name in plain interpolated; do
    OMP_NUM_THREADS=1 test_run "$name" > >(sed -u "s/^/$name: /") 2>&1 &
    tests+=($!)
done
for process in "${tests[@]}"; do wait "$process"; done

say "the table"
start "$PY" tools/make_demo.py report --root "$OUT"
echo
echo "The table is in $OUT/table.md, the picture in $OUT/accuracy_vs_ratio.png."
