"""Fixtures shared by all tests."""

from __future__ import annotations

import logging
import os
import resource
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.children import default_signals, forget_environment

# One thread each: the models here are too small to share, and several tests start processes.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Several tests send signals, to themselves or to processes that they start.
default_signals()
forget_environment()

ROOT = Path(__file__).resolve().parents[1]
# Processes that tests start import this clone, whichever is installed.
os.environ["PYTHONPATH"] = os.pathsep.join(
    filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
# What hostile files may take at most.
MOST_MEMORY_KB = 1 << 20  # 1 GiB
MOST_SECONDS = 20  # of the processor: what else runs on the machine does not count
# ru_maxrss begins with the parent's size where a process was forked; VmHWM is the program's own.
REPORT = """
    with open("/proc/self/status") as _file:
        _peak = next(line.split()[1] for line in _file if line.startswith("VmHWM"))
    print("peak", _peak)
"""


@pytest.fixture(scope="session")
def repo() -> Path:
    """Root of the checkout."""
    return ROOT


@pytest.fixture(scope="session")
def golden() -> Path:
    """Folder of the recorded numbers that are kept in the repository."""
    return ROOT / "tests" / "golden"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder beside the checkout with the full recordings and real videos, if it is there."""
    folder = ROOT.parent / "shared"
    if not (folder / "golden" / "README.md").is_file():
        pytest.skip("the full recordings are not beside this checkout")
    return folder


@pytest.fixture
def tiny_video_clip():
    """A VideoCLIP of the recorded tiny model's size, randomly initialised."""
    import torch

    from openvclip.models.backbone import CLIP, CLIPConfig
    from openvclip.models.video_clip import VideoCLIP

    torch.manual_seed(0)
    clip = CLIP(
        CLIPConfig(
            embed_dim=64, image_size=64, patch_size=16, vision_width=128, vision_layers=3,
            text_width=64, text_layers=2, context_length=77, vocab_size=49408,
        )
    )
    return VideoCLIP(clip, 8, torch.eye(5, 64))


@pytest.fixture(autouse=True)
def restored_loggers():
    """Undo what a test's ``setup_logging`` did, so that no later test depends on it."""
    loggers = [logging.getLogger(name) for name in ("openvclip", "py.warnings")]
    before = [(logger.level, logger.propagate, list(logger.handlers)) for logger in loggers]
    yield
    for logger, (level, propagate, handlers) in zip(loggers, before, strict=True):
        logger.setLevel(level)
        logger.propagate = propagate
        for handler in [handler for handler in logger.handlers if handler not in handlers]:
            logger.removeHandler(handler)
            handler.close()


@pytest.fixture(autouse=True)
def captured_log(restored_loggers, caplog):  # caplog restores what it found before those do
    """Let caplog see each record of the project's log once, whether or not the log was set up."""
    logger = logging.getLogger("openvclip")
    logger.propagate = False
    logger.addHandler(caplog.handler)
    yield
    logger.removeHandler(caplog.handler)


@pytest.fixture(scope="session")
def tiny_clip_state(golden: Path):
    """Weights of the recorded tiny CLIP (64 px, patch 16, width 128), fp32, OpenAI's names.

    Of the token embedding only the rows that the recorded classifier uses; the rest is zero.
    """
    import torch

    state = {}
    for part in ("visual_a", "visual_b", "text"):
        state |= torch.load(golden / f"tiny_clip_{part}.pt", weights_only=True)
    state = {name: t if t.dtype == torch.int32 else t.float() for name, t in state.items()}
    rows = state.pop("token_embedding.rows")
    embedding = torch.zeros(49408, rows.shape[1])
    embedding[state.pop("token_embedding.ids").long()] = rows
    return {**state, "token_embedding.weight": embedding}


@pytest.fixture
def bounded():
    """Run a program with arguments; return what it prints, unless it needs too much."""

    def run(code: str, *argv: object, seconds: int = MOST_SECONDS) -> str:
        code = textwrap.dedent(code) + textwrap.dedent(REPORT)
        env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1",
               "PYTHONUTF8": "1"}
        done = subprocess.run(
            [sys.executable, "-c", code, *map(str, argv)], env=env, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, encoding="utf-8", timeout=600,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5)))
        assert done.returncode == 0, done.stderr
        *lines, last = done.stdout.splitlines()
        assert int(last.removeprefix("peak ")) < MOST_MEMORY_KB
        return "\n".join(lines)

    return run
