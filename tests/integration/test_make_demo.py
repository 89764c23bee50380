"""tools/make_demo.py as a user calls it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

TOOL = Path(__file__).resolve().parents[2] / "tools" / "make_demo.py"


def call(*args: object) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, str(TOOL), *map(str, args)], capture_output=True,
                          text=True, check=False)


def test_data_is_made_once(tmp_path) -> None:
    root = tmp_path / "demo"
    first = call("data", "--output", root, "--scale", 0.01)
    assert first.returncode == 0, first.stderr
    assert "456/456 clips" in first.stdout and "ETA" in first.stdout
    second = call("data", "--output", root, "--scale", 0.01)
    assert second.returncode == 0 and "nothing to do" in second.stdout
    other = call("data", "--output", root, "--scale", 0.01, "--seed", 5)
    assert other.returncode == 2 and "other demo data" in other.stdout
    assert not other.stderr


def test_clip_is_trained_once(tmp_path) -> None:
    path = tmp_path / "clip.pt"
    first = call("clip", "--output", path, "--steps", 2, "--batch-size", 4)
    assert first.returncode == 0, first.stderr
    assert "2/2 steps" in first.stdout and path.exists()
    assert "nothing to do" in call("clip", "--output", path, "--steps", 2, "--batch-size",
                                   4).stdout
    wrong = call("clip", "--output", path, "--steps", 0)
    assert wrong.returncode == 2 and "[ERROR] DataError" in wrong.stdout and not wrong.stderr
