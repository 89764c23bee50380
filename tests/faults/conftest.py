"""Fixtures of the fault tests: the tiny dataset of tests/integration, and runs on it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "integration")]

from conftest_integration import make_dataset  # noqa: E402
from runs import Runs  # noqa: E402


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Path:
    """Folder of the tiny dataset."""
    return make_dataset(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def runs(tiny, tmp_path_factory):
    """Starts runs of ``tools/run_net.py``."""
    config = tmp_path_factory.mktemp("config") / "empty.yaml"
    config.write_text("NUM_GPUS: 0\n")
    started = Runs(tiny, config)
    yield started
    started.close()


@pytest.fixture(scope="session")
def whole(runs, tmp_path_factory) -> Path:
    """Output of an undisturbed run."""
    output = tmp_path_factory.mktemp("whole") / "run"
    runs.finish(output)
    return output
