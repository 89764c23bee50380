"""The files around the code agree with it and with each other."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from openvclip import __version__
from openvclip.config import get_cfg, load_cfg, upstream
from openvclip.config.defaults import flatten

ROOT = Path(__file__).resolve().parents[1]
DOCS = sorted(ROOT.glob("*.md")) + sorted(ROOT.glob("docs/**/*.md")) + sorted(
    ROOT.glob("*/README.md")
)
SCRIPTS = sorted(ROOT.glob("script/**/*.sh")) + [ROOT / ".ci/run", ROOT / "tests/settings.sh"]
CONFIGS = sorted(ROOT.glob("configs/**/*.yaml"))


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_every_dependency_is_pinned() -> None:
    setup = read("setup.py")
    names = re.findall(r'"([\w-]+)"', setup[setup.index("install_requires"):setup.index("slurm")])
    wanted = {name.lower() for name in names} - {"dev"}
    pinned = {line.split("==")[0].lower() for line in read("constraints.txt").splitlines()
              if "==" in line}
    assert {"torch", "av", "open_clip_torch", "pytest", "ruff"} <= wanted
    assert wanted <= pinned
    assert "+" not in re.sub(r"(?m)^#.*", "", read("constraints.txt"))


def test_citation_names_both_papers_and_the_version() -> None:
    citation = yaml.safe_load(read("CITATION.cff"))
    assert citation["version"] == __version__
    assert [reference["url"][-10:] for reference in citation["references"]] == [
        "2302.00624", "2310.05010"
    ]
    assert citation["preferred-citation"]["title"] == citation["references"][0]["title"]


def test_licence_is_the_one_that_is_declared() -> None:
    assert "Apache License" in read("LICENSE")[:200]
    assert "Apache-2.0" in read("setup.py") and "Apache-2.0" in read("CITATION.cff")


@pytest.mark.parametrize("path", DOCS, ids=lambda path: str(path.relative_to(ROOT)))
def test_docs_name_only_keys_that_exist(path: Path) -> None:
    known = {*flatten(get_cfg()), *upstream.OFF, *upstream.INERT, *upstream.MODEL_KEYS}
    sections = {key.split(".")[0] for key in known if "." in key}
    named = re.findall(r"\b([A-Z_]+(?:\.[A-Z][A-Z0-9_]*)+)\b(?!\*)", path.read_text("utf-8"))
    wrong = {key for key in named if key.split(".")[0] in sections and key not in known
             and not any(name.startswith(key) for name in known)}
    assert wrong == set()


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_scripts_are_valid_bash(path: Path) -> None:
    result = subprocess.run(["bash", "-n", str(path)], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert not re.search(r"\\[ \t]+$", path.read_text("utf-8"), re.M), "backslash before spaces"


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: str(path.relative_to(ROOT)))
def test_shipped_configs_are_fit_to_run(path: Path) -> None:
    assert load_cfg(path).is_frozen()


def test_every_dependency_is_imported() -> None:
    setup = read("setup.py")
    names = re.findall(r'"([\w-]+)",', setup[setup.index("install_requires"):setup.index("extras")])
    modules = {"open_clip_torch": "open_clip", "pillow": "PIL",
               "tensorboard": "torch.utils.tensorboard"}
    code = "\n".join(path.read_text("utf-8") for path in ROOT.glob("openvclip/**/*.py"))
    imported = {*re.findall(r"^ *(?:from|import) ([\w.]+)", code, re.M),
                *re.findall(r'import_module\("([\w.]+)', code)}
    assert names
    for name in names:
        module = modules.get(name, name)
        assert any(f"{found}.".startswith(f"{module}.") for found in imported), name
