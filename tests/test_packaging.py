"""The files around the code agree with it and with each other."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from openvclip import __version__
from openvclip.commands import COMMANDS, main
from openvclip.config import get_cfg, load_cfg, upstream
from openvclip.config.defaults import flatten
from openvclip.data.lists.label_maps import SHIPPED
from openvclip.data.lists.protocols import PROTOCOLS

ROOT = Path(__file__).resolve().parents[1]
DOCS = sorted(ROOT.glob("*.md")) + sorted(ROOT.glob("docs/**/*.md")) + sorted(
    ROOT.glob("*/README.md")
)
SCRIPTS = sorted(ROOT.glob("script/**/*.sh")) + [ROOT / ".ci/run", ROOT / "tests/settings.sh"]
CONFIGS = sorted(ROOT.glob("configs/**/*.yaml"))


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def read_project() -> dict:
    tomllib = pytest.importorskip("tomllib")  # of Python 3.11
    return tomllib.loads(read("pyproject.toml"))["project"]


def test_every_dependency_is_pinned_and_has_a_lower_bound_below_the_pin() -> None:
    requirements = pytest.importorskip("packaging.requirements")
    project = read_project()
    lines = [*project["dependencies"], *sum(project["optional-dependencies"].values(), [])]
    pins = {}
    for line in read("constraints.txt").splitlines():
        if "==" in line:
            pin = requirements.Requirement(line)
            pins[pin.name.lower()] = str(pin.specifier).removeprefix("==")
    names = set()
    for line in lines:
        wanted = requirements.Requirement(line)
        names.add(wanted.name.lower())
        assert str(wanted.specifier).startswith(">="), f"{line} has no lower bound"
        assert wanted.specifier.contains(pins[wanted.name.lower()]), line
    assert {"torch", "av", "open_clip_torch", "pytest", "ruff"} <= names
    assert "+" not in re.sub(r"(?m)^#.*", "", read("constraints.txt"))


def test_every_package_that_is_imported_is_declared() -> None:
    """What else is imported is imported by name and optional."""
    packages = {"PIL": "pillow", "yaml": "pyyaml", "open_clip": "open_clip_torch"}
    project = read_project()
    lines = [*project["dependencies"], *sum(project["optional-dependencies"].values(), [])]
    declared = {re.match(r"[\w-]+", line)[0].lower() for line in lines}
    for path in (ROOT / "openvclip").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = [node.module] if isinstance(node, ast.ImportFrom) else [
                alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for name in {name.split(".")[0] for name in names} - {"openvclip", "__future__"}:
                if name not in sys.stdlib_module_names:
                    assert packages.get(name, name) in declared, f"{path}: {name}"


def test_the_lowest_versions_are_those_of_the_project() -> None:
    done = subprocess.run([sys.executable, "tests/lowest_versions.py"], cwd=ROOT, text=True,
                          capture_output=True)
    assert done.returncode == 0, done.stderr
    assert {line.replace("==", ">=") for line in done.stdout.splitlines()} == set(
        read_project()["dependencies"])


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """Folder of an installed wheel, without a clone; ``bin/openvclip`` is in it."""
    pytest.importorskip("setuptools", "77")
    root = tmp_path_factory.mktemp("installed")
    clone = root / "clone"
    for name in ("openvclip", "label_db", "zs_label_db"):
        shutil.copytree(ROOT / name, clone / name, symlinks=True,
                        ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copyfile(ROOT / name, clone / name)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    for command in (
        [*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", root, clone],
        [sys.executable, "-m", "venv", "--without-pip", root / "venv"],
        [*pip, "--python", root / "venv/bin/python", "install", "--no-deps", "--no-index",
         "--find-links", root, "openvclip"],
    ):
        done = subprocess.run(command, text=True, capture_output=True, env=env, cwd=root)
        assert done.returncode == 0, done.stdout + done.stderr
    (site,) = (root / "venv/lib").glob("python*/site-packages")
    # What it depends on is not downloaded again. No .pth file is read in such a folder, so that
    # an editable install of a clone, which is one, does not count.
    (site / "dependencies.pth").write_text("\n".join(path for path in sys.path
                                                     if path.endswith("site-packages")))
    shutil.rmtree(clone)
    return root / "venv"


def run_installed(venv: Path, folder: Path, *arguments: object) -> str:
    env = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([str(venv / "bin/openvclip"), *map(str, arguments)], cwd=folder, env=env,
                          text=True, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_installed_command_lists_its_commands_without_torch(installed, tmp_path) -> None:
    shown = run_installed(installed, tmp_path, "--help")
    for name in COMMANDS:
        assert re.search(rf"^  {name} +\w", shown, re.M), name
        assert f"usage: openvclip {name} " in run_installed(installed, tmp_path, name, "-h")
    assert run_installed(installed, tmp_path, "--version") == f"openvclip {__version__}\n"
    code = ("import sys, time; start = time.perf_counter(); from openvclip.commands import main\n"
            "try: main(['--help'])\nexcept SystemExit: pass\n"
            "assert 'torch' not in sys.modules; assert time.perf_counter() - start < 1")
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL, cwd=ROOT)


def test_the_installed_command_finds_the_label_maps_and_prepares_here(installed, tmp_path) -> None:
    for name in ("abseiling", "zumba"):
        for split in ("train", "val"):
            video = tmp_path / "k400" / split / name / "a.mp4"
            video.parent.mkdir(parents=True)
            video.touch()
    run_installed(installed, tmp_path, "prepare", "kinetics400", "--videos", tmp_path / "k400")
    assert (tmp_path / "label_db/k400-index2cls.json").read_bytes() == (
        ROOT / "label_db/k400-index2cls.json").read_bytes()
    rows = (tmp_path / "label_db/weng_compress_full_splits/train.csv").read_text().splitlines()
    assert rows == ["train/abseiling/a.mp4,0", "train/zumba/a.mp4,399"]


def test_label_maps_of_every_protocol_come_with_the_package() -> None:
    for protocol in PROTOCOLS.values():
        if protocol.kind != "half":  # drawn from the full map
            assert (SHIPPED / protocol.label_map).is_file(), protocol.label_map


def test_a_command_that_does_not_exist_is_refused_with_the_nearest(capsys) -> None:
    assert main(["avrage"]) == 2
    assert "nearest: average" in capsys.readouterr().out


def test_every_command_is_a_tool_of_the_clone_too() -> None:
    """One file of tools/ per command, which calls the same function; ``merge`` is ``average``'s."""
    called = [re.search(r"from openvclip\.commands\.(\w+) import main", path.read_text("utf-8"))
              for path in ROOT.glob("tools/*.py")]
    assert {match[1].replace("_", "-") for match in called if match} == set(COMMANDS) - {"merge"}
    for path in ROOT.glob("tools/**/*.py"):
        assert "sys.path" not in path.read_text("utf-8"), path


def test_citation_names_both_papers_and_the_version() -> None:
    citation = yaml.safe_load(read("CITATION.cff"))
    assert citation["version"] == __version__
    assert [reference["url"][-10:] for reference in citation["references"]] == [
        "2302.00624", "2310.05010"
    ]
    assert citation["preferred-citation"]["title"] == citation["references"][0]["title"]


def test_checks_before_a_commit_are_of_the_pinned_versions() -> None:
    pins = dict(re.findall(r"(?m)^([\w-]+)==(\S+)", read("constraints.txt")))
    hooks = yaml.safe_load(read(".pre-commit-config.yaml"))["repos"]
    versions = {hook["repo"].rpartition("/")[2].removesuffix("-pre-commit"): hook["rev"]
                for hook in hooks}
    assert versions == {name: f"v{pins[name]}" for name in ("ruff", "codespell")}


def test_continuous_integration_runs_what_contributors_run() -> None:
    (job,) = yaml.safe_load(read(".github/workflows/ci.yml"))["jobs"].values()
    assert "bash .ci/run" in [step.get("run") for step in job["steps"]]
    assert "bash script/run_tests.sh" in read(".ci/run")


@pytest.mark.parametrize("path", sorted(ROOT.glob(".github/ISSUE_TEMPLATE/*.yml")),
                         ids=lambda path: path.name)
def test_issue_templates_are_forms(path: Path) -> None:
    form = yaml.safe_load(path.read_text("utf-8"))
    if path.name != "config.yml":
        assert form["name"] and form["description"]
        assert all(part["type"] == "textarea" and part["attributes"]["label"]
                   for part in form["body"])


def test_the_root_holds_nothing_that_a_run_left() -> None:
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("not a clone")
    names = {name for name in done.stdout.splitlines() if "/" not in name}
    assert names <= {
        ".gitignore", ".pre-commit-config.yaml", "CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md",
        "INSTALL.md", "LICENSE", "README.md", "constraints.txt", "pyproject.toml", "setup.py"}


def test_the_newest_released_version_is_in_the_changelog() -> None:
    assert re.findall(r"(?m)^## (\d\S+)", read("CHANGELOG.md"))[0] == __version__


def test_licence_is_the_one_that_is_declared() -> None:
    assert "Apache License" in read("LICENSE")[:200]
    assert "Apache-2.0" in read("pyproject.toml") and "Apache-2.0" in read("CITATION.cff")


@pytest.mark.parametrize("path", DOCS, ids=lambda path: str(path.relative_to(ROOT)))
def test_docs_name_only_keys_that_exist(path: Path) -> None:
    text = path.read_text("utf-8")
    known = {*flatten(get_cfg()), *upstream.OFF, *upstream.INERT, *upstream.MODEL_KEYS,
             *re.findall(r'declare\(\{"([A-Z0-9_.]+)"', text)}  # by an example on the page
    sections = {key.split(".")[0] for key in known if "." in key}
    named = re.findall(r"\b([A-Z_]+(?:\.[A-Z][A-Z0-9_]*)+)\b(?!\*)", text)
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
    names = [line.split(">=")[0] for line in read_project()["dependencies"]]
    modules = {"open_clip_torch": "open_clip", "pillow": "PIL", "PyYAML": "yaml",
               "tensorboard": "torch.utils.tensorboard"}
    code = "\n".join(path.read_text("utf-8") for path in ROOT.glob("openvclip/**/*.py"))
    imported = {*re.findall(r"^ *(?:from|import) ([\w.]+)", code, re.M),
                *re.findall(r'import_module\("([\w.]+)', code)}
    assert names
    for name in names:
        module = modules.get(name, name)
        assert any(f"{found}.".startswith(f"{module}.") for found in imported), name
