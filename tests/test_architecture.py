"""The house's rules: imports point down, no prints, nothing is unpickled."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

# A package may import those before it; data and clip, side by side, not each other.
LEVELS = [
    {"utils"}, {"config"}, {"data", "clip"}, {"models"}, {"interpolation"}, {"report"}, {"engine"},
    # The package's front door, and what it offers: nothing in the house goes through it.
    {"__init__", "load_model"},
]
LEVEL = {name: i for i, names in enumerate(LEVELS) for name in names}
ROOT = Path(__file__).resolve().parents[1] / "openvclip"
FILES = sorted(ROOT.rglob("*.py"))


def room_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported(tree: ast.AST):
    """Names of the project's own modules that a file imports, anywhere in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            if node.module == "openvclip":
                yield from (f"openvclip.{alias.name}" for alias in node.names)
            elif node.module.startswith("openvclip."):
                yield node.module
        elif isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name.startswith("openvclip"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_down(path):
    room = room_of(path)
    for module in imported(ast.parse(path.read_text())):
        target = module.split(".")[1]
        if target not in LEVEL:  # openvclip.__version__
            continue
        assert room in LEVEL, f"{path} is outside the plan and imports {module}"
        assert target == room or LEVEL[target] < LEVEL[room], f"{path} imports {module}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_the_library_neither_prints_nor_exits_nor_unpickles(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
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
OWN_TEXTS = {"resources.files('openvclip.report').joinpath('page', name)", "vocabulary_path()"}
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
            assert path.name in ("checkpoint.py", "cache.py"), where
        if isinstance(node.func, ast.Attribute) and node.func.attr in ("read_text", "read_bytes"):
            owner = ast.unparse(node.func.value)
            assert owner in OWN_TEXTS | OWN_FILES.get(path.name, set()), where
        if isinstance(node.func, ast.Attribute) and node.func.attr in ("write_text", "write_bytes"):
            assert path.name == "export.py" and first.startswith("json.dumps"), where


@pytest.mark.parametrize("path", sorted((ROOT.parent / "tools").glob("*.py")), ids=lambda p: p.name)
def test_tools_print_clean_text(path):
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
            "assert load_model.__module__ == 'openvclip.engine.predictor'")
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT.parent).returncode == 0


def test_runs_do_not_wait_for_what_they_may_not_need():
    code = ("import sys, openvclip.engine.run; "
            "heavy = {'matplotlib', 'open_clip', 'transformers'} & set(sys.modules); "
            "sys.exit(' '.join(heavy) or 0)")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT.parent, capture_output=True,
                          text=True)
    assert done.returncode == 0, done.stderr


def test_config_needs_no_torch():
    code = "import sys, openvclip.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT.parent).returncode == 0
