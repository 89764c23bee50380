"""What the processes of a check do in place of check_video; they import this file by name."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from openvclip.data.check.video import check_video


def note_and_check(log: Path, path: str) -> dict:
    with open(log, "a", encoding="utf-8") as file:
        file.write(Path(path).name + "\n")
    return check_video(path)


def misbehave(path: str) -> dict:
    name = Path(path).name
    if "segfault" in name:
        os.kill(os.getpid(), signal.SIGSEGV)
    if "exit" in name:
        os._exit(0 if "quiet" in name else 7)
    if "hang" in name:
        time.sleep(600)
    if "memory" in name:
        raise MemoryError
    return check_video(path)


def crash_once(flag: Path, path: str) -> dict:
    if not flag.exists():
        flag.touch()
        os._exit(1)
    return check_video(path)
