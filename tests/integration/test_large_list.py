"""A dataset as large as Kinetics: lists are made and read in little memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys

ROWS = 250_000
CLASSES = 400
# Prepares the lists, reads them as training does, and says what that took.
WORK = """
import json, re, sys
sys.path.insert(0, "tools")
import prepare_labels
videos, root = sys.argv[1:]
assert prepare_labels.main(["kinetics400", "--videos", videos, "--root", root]) == 0
from openvclip.config import load_cfg
from openvclip.data.loader import build_loader
loader = build_loader(load_cfg(None, [
    "DATA.PATH_TO_DATA_DIR", f"{root}/label_db/weng_compress_full_splits",
    "DATA.PATH_LABEL_SEPARATOR", ",", "DATA.PATH_PREFIX", videos,
    "DATA.INDEX_LABEL_MAPPING_FILE", f"{root}/label_db/k400-index2cls.json", "NUM_GPUS", "0",
]), "train")
batch = next(iter(loader.sampler))
# Not ru_maxrss, which begins at the greatest size of the process that started this one.
status = open("/proc/self/status").read()
peak = int(re.search(r"VmHWM:\\s+(\\d+) kB", status).group(1)) * 1024
print(json.dumps({"rows": len(loader.dataset), "batch": len(batch), "peak": peak}))
"""


def test_a_quarter_of_a_million_rows_take_less_than_a_gibibyte(repo, tmp_path):
    names = json.loads((repo / "label_db/k400-index2cls.json").read_text("utf-8")).values()
    for name in names:
        folder = tmp_path / "k400" / "train" / name.replace(" ", "_")
        folder.mkdir(parents=True)
        inside = os.open(folder, os.O_RDONLY)
        for number in range(ROWS // CLASSES):
            flags = os.O_CREAT | os.O_WRONLY
            os.close(os.open(f"{number:011d}.mp4", flags, dir_fd=inside))
        os.close(inside)
    val = tmp_path / "k400" / "val" / "abseiling"
    val.mkdir(parents=True)
    (val / "a.mp4").touch()
    finished = subprocess.run(
        [sys.executable, "-c", WORK, str(tmp_path / "k400"), str(tmp_path)],
        capture_output=True, text=True, cwd=repo,
    )
    assert finished.returncode == 0, finished.stderr
    found = json.loads(finished.stdout.splitlines()[-1])
    assert found["rows"] == ROWS and found["batch"] == 64
    assert found["peak"] < 2**30
