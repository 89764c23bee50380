"""The house's rules: imports point down, no prints, nothing is unpickled."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import openvclip

# The floors of the house, from the ground up: a room imports from those before it, and itself.
FLOORS = ["utils", "config", "metrics", "clip", "data", "interpolation", "models", "report",
          "checkpoints", "evaluation", "predict", "training", "demo", "launch",
          "commands"]
LEVEL = {name: i for i, name in enumerate(FLOORS)}
ROOT = Path(__file__).resolve().parents[1] / "openvclip"
FILES = sorted(ROOT.rglob("*.py"))


def name_of(path: Path) -> str:
    """Dotted name of a module of the package."""
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in FILES}


def imported(path: Path) -> set[str]:
    """The package's modules that a module imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {name if name in MODULES else node.module for name in names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name for name in found if name.split(".")[0] == "openvclip"}


IMPORTS = {name: imported(path) for name, path in MODULES.items()}


def test_every_room_is_on_a_floor():
    rooms = {path.relative_to(ROOT).parts[0] for path in FILES if path.parent != ROOT}
    assert rooms == set(FLOORS)


@pytest.mark.parametrize("name", IMPORTS)
def test_imports_point_down(name):
    for module in IMPORTS[name]:
        assert module in MODULES, f"{name} imports {module}, which is not there"
        # The front door, its version, and what ``python -m openvclip`` starts.
        if name in ("openvclip", "openvclip.__main__") or module == "openvclip":
            continue
        room, target = name.split(".")[1], module.split(".")[1]
        assert target == room or LEVEL[target] < LEVEL[room], f"{name} imports {module}"


def test_the_page_on_the_architecture_has_the_floors_and_no_path_that_is_not_there():
    text = (ROOT.parent / "docs" / "architecture.md").read_text("utf-8")
    assert re.findall(r"(?m)^\| `(\w+)` \|", text) == FLOORS[::-1]
    paths = [name for name in re.findall(r"`([\w/.]+)`", text) if "/" in name]
    assert len(paths) > 30
    for name in paths:
        assert (ROOT / name).exists() or (ROOT.parent / name).exists(), name


def test_no_modules_import_each_other_in_a_circle():
    order = TopologicalSorter({name: imports - {"openvclip"} for name, imports in IMPORTS.items()})
    order.prepare()  # raises a CycleError, which names the modules


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_file_a_function_and_a_constructor_can_be_taken_in(path):
    text = path.read_text()
    assert text.count("\n") <= 400, f"{path}: split it"
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        where = f"{path}:{node.lineno}: {node.name}"
        assert node.end_lineno - node.lineno < 60, f"{where} is longer than a screen"
        if node.name == "__init__":
            given = len(node.args.args) - 1 + len(node.args.kwonlyargs)
            assert given <= 12, f"{where}: group its parameters"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_the_library_neither_prints_nor_exits_nor_unpickles(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
                and path.parent.name != "commands"):
            assert node.func.id not in ("print", "exit", "quit"), f"{path}:{node.lineno}"
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"{path}:{node.lineno} has a bare except"
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
            assert path.name == "torch_files.py", f"{path}:{node.lineno} looks at nothing first"
            keywords = {k.arg: ast.unparse(k.value) for k in node.keywords}
            assert keywords.get("weights_only") == "True", f"{path}:{node.lineno}"
        if isinstance(node, ast.Call):
            assert not re.match(r"pickle\.(loads?|Unpickler)$", ast.unparse(node.func)), path


# Files of the package itself.
OWN_TEXTS = {"resources.files('openvclip.report.run').joinpath('page_files', name)",
             "vocabulary_path()"}
# open_clip's own files, and one that was written a moment ago.
OWN_FILES = {"open_clip_names.py": {"path", "configs[name]"}, "export.py": {"config"}}


@pytest.mark.parametrize("path", [p for p in FILES if p.name != "files.py"],
                         ids=lambda p: str(p.relative_to(ROOT)))
def test_files_are_opened_by_those_who_look_what_they_are(path):
    """utils/files.py: regular files of a bounded size, random names for what is written."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            assert "tempfile" not in {alias.name for alias in node.names}, path
        if not isinstance(node, ast.Call):
            continue
        where, called = f"{path}:{node.lineno}", ast.unparse(node.func)
        first = ast.unparse(node.args[0]) if node.args else ""
        if called == "open":
            # Made a moment ago, or looked at; /proc and the null device are the system's.
            assert first in ("temporary", "output", "os.devnull") or "/proc/" in first, where
        if called == "os.replace":
            assert path.name in ("files.py", "cache.py"), where
        if isinstance(node.func, ast.Attribute) and node.func.attr in ("read_text", "read_bytes"):
            owner = ast.unparse(node.func.value)
            assert owner in OWN_TEXTS | OWN_FILES.get(path.name, set()), where
        if isinstance(node.func, ast.Attribute) and node.func.attr in ("write_text", "write_bytes"):
            assert path.name == "export.py" and first.startswith("json.dumps"), where


COMMANDS = sorted([*(ROOT.parent / "tools").glob("*.py"), *(ROOT / "commands").glob("*.py")])


@pytest.mark.parametrize("path", COMMANDS, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_commands_print_clean_text(path):
    if path.name == "make_api_docs.py":  # prints its own words only
        return
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "print":
            assert ast.unparse(node.args[0]).startswith("clean_lines("), f"{path}:{node.lineno}"
        assert not (isinstance(node, ast.Call)
                    and re.fullmatch(r"sys\.std(out|err)\.write", ast.unparse(node.func))), path


def test_torchscript_is_never_run():
    users = [p for p in FILES if re.search(r"torch\.jit\.\w+\(", p.read_text())]
    assert users == []  # clip/archive.py reads its tensors without it


def test_the_front_door_opens_at_first_use_only():
    code = ("import sys, openvclip; assert 'torch' not in sys.modules; "
            "from openvclip import load_model; assert 'torch' in sys.modules; "
            "assert load_model.__module__ == 'openvclip.predict.classifier'")
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT.parent).returncode == 0


@pytest.mark.parametrize("name", [name for name in openvclip.__all__ if name[0] != "_"])
def test_every_name_of_the_front_door_is_there(name):
    value = getattr(openvclip, name)
    assert value.__name__ == name and name in dir(openvclip)


def test_runs_do_not_wait_for_what_they_may_not_need():
    code = ("import sys, openvclip.launch.run; "
            "heavy = {'matplotlib', 'open_clip', 'transformers'} & set(sys.modules); "
            "sys.exit(' '.join(heavy) or 0)")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT.parent, capture_output=True,
                          text=True)
    assert done.returncode == 0, done.stderr


def test_config_needs_no_torch():
    code = "import sys, openvclip.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT.parent).returncode == 0


# What has the config checked, or runs what it asks for.
CFG_READERS = {"check_early", "_run", "check_retrieval", "extend_model"}


@pytest.mark.parametrize("path", [p for p in FILES if p.parent.name not in ("config", "keys")],
                         ids=lambda p: str(p.relative_to(ROOT)))
def test_only_what_builds_reads_the_config(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef) and "cfg" in {arg.arg for arg in node.args.args}:
            reads = any(isinstance(x, ast.Attribute) and ast.unparse(x.value) == "cfg"
                        for x in ast.walk(node))
            builds = node.name.lstrip("_").startswith("build") or node.name in CFG_READERS
            assert builds or not reads, f"{path}:{node.lineno} {node.name}"
