"""Fixtures that drive the tools as a user does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from conftest_integration import make_dataset
from conftest_training import train_double
from served_python import start_server


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Path:
    """Folder of the tiny dataset."""
    return make_dataset(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def double(tiny, repo, tmp_path_factory):
    """Train in float64: ``double(processes, **changes)``, see :func:`train_double`."""

    def start(processes: int, *, output: Path | None = None, **changes):
        output = output or tmp_path_factory.mktemp(f"by{processes}")
        return train_double(tiny, repo, output, processes, changes)

    return start


@pytest.fixture(scope="session")
def python(repo, tmp_path_factory):
    """The path of a python whose processes begin with torch imported, see served_python.py."""
    folder = tmp_path_factory.mktemp("python")
    server = start_server(repo, folder)
    yield folder / "bin" / "python"
    server.terminate()
    server.wait()


@pytest.fixture
def tool(repo, python):
    """Start ``tools/NAME.py`` in a process of its own; returns the finished process."""

    def start(name: str, *args: object, check: int | None = 0, timeout: float = 120):
        finished = subprocess.run(
            [python, str(repo / "tools" / f"{name}.py"), *map(str, args)],
            capture_output=True, text=True, timeout=timeout, cwd=repo,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        output = finished.stdout + finished.stderr
        if check is not None:
            assert finished.returncode == check, output
        finished.output = output
        return finished

    return start


@pytest.fixture
def empty_cfg(tmp_path) -> Path:
    """A config file that changes nothing."""
    path = tmp_path / "empty.yaml"
    path.write_text("NUM_GPUS: 0\n")
    return path


@pytest.fixture
def in_process(repo, monkeypatch):
    """Call ``tools/run_net.py``'s main in this process, which saves the imports' seconds."""
    monkeypatch.syspath_prepend(str(repo / "tools"))
    import run_net

    def start(cfg: Path, opts: list[str], check: int | None = 0) -> int:
        code = run_net.main(["--cfg", str(cfg), "--opts", *opts])
        if check is not None:
            assert code == check
        return code

    return start
