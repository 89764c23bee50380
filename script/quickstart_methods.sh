#!/usr/bin/env bash
# The methods of docs/methods.md on the demo's world, on two CPU cores: fine-tuned, interpolated and
# the papers' rivals, from the same CLIP, on the same videos, with the same epochs and learning
# rates, over three seeds; each averaged and patched over the same ratios. Prints the tables and
# draws the trade-offs. It takes about half an hour.
#
#   bash script/quickstart_methods.sh
#
# Run it again and it skips what is done and resumes what was cut off; a changed setting is noticed.
#
# Settings, from the environment: OUT (folder, runs/methods by default), SEED (of data and CLIP, 2
# by default) and those of script/setup_env.sh. Arguments go to `openvclip demo methods`.
set -euo pipefail
STARTED=$SECONDS
source "$(dirname "${BASH_SOURCE[0]}")/setup_env.sh"
cd "$ROOT"

OUT="${OUT:-runs/methods}"
export MPLBACKEND=Agg

start "$PY" tools/make_demo.py methods --root "$OUT" --seed "${SEED:-2}" "$@"
echo
echo "The tables are in $OUT/table.md, the picture in $OUT/tradeoffs.png; this took" \
    "$(((SECONDS - STARTED) / 60)):$(printf %02d $(((SECONDS - STARTED) % 60)))."
