#!/usr/bin/env python3
"""Write docs/api.md from the docstrings of the modules that are meant to be imported.

The source is read, not imported, which is fast and shows defaults as they are written. The page is
Markdown, read and linked like the other pages; pdoc and the like write HTML.
``--check`` writes nothing; exit code 1 says that docs/api.md is out of date.
"""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

from openvclip.utils.command_line import Parser, run_tool

ROOT = Path(__file__).resolve().parents[1]
OUTPUT = ROOT / "docs" / "api.md"
HEADING = """# API reference

Made from the docstrings by `python tools/make_api_docs.py`; do not edit. Only `build_*` functions
take a config; everything else here takes plain arguments, so that a notebook needs none. Errors are
those of `openvclip/utils/errors.py`: `ConfigError`, `DataError`, `CheckpointError`.
"""
# What to import for what: modules below openvclip, and the names to show of each; none named shows
# every public one. A module that does not exist is left out.
MODULES: dict[str, dict[str, str]] = {
    "Prediction": {"predict.classifier": "load_model VideoClassifier",
                   "predict.results": "Prediction Timeline"},
    "Weights": {
        "interpolation.mixing": "",
        "clip.weights": "load_clip load_state_dict_file default_clip_path check_keys "
                        "find_not_finite",
        "checkpoints.averaging": "average_checkpoints find_checkpoints",
        "checkpoints.files": "save_file load_file verify_file list_checkpoints list_partials "
                             "load_last_checkpoint Keep",
        "checkpoints.export": "export_model load_export Export",
    },
    "Models": {
        "models.backbone.build": "build_backbone",
        "models.backbone.backbone": "", "models.backbone.clip": "",
        "clip.tokenizer": "tokenize Tokenizer clean_text",
        "models.temporal": "",
        "models.temporal.block": "",
        "models.text": "",
        "models.video_clip": "",
        "models.build": "build_model build_classifier load_model_weights build_clip_source",
    },
    "Videos, lists and captions": {
        "data.lists.labels": "", "data.video.sampling": "", "data.video.video_io": "",
        "data.captions.index": "CaptionFile CaptionMatch draw_caption write_captions caption_key",
    },
    "Training": {
        "training.step": "PlainStep InterpolatedStep StepResult",
        "training.objectives.objective": "Objective Part Pass Captions",
        "training.objectives.contrastive": "contrastive_loss gather_rows",
    },
    "Evaluation": {
        "evaluation.runner": "", "evaluation.tasks.task": "", "metrics.classification": "",
        "metrics.retrieval": "compute_ranks compute_retrieval_scores",
    },
}
SECTIONS = ("Args", "Attributes", "Returns", "Yields", "Raises")
ITEM = re.compile(r"^(\*{0,2}\w[\w.]*(?:, \*{0,2}\w[\w.]*)*): (.*)$")
Function = ast.FunctionDef | ast.AsyncFunctionDef


def inline(text: str) -> str:
    """Turn reStructuredText's roles and double backticks into Markdown's code."""
    text = re.sub(r":(?:func|class|meth|mod|attr|data):`~?([^`]+)`", r"`\1`", text)
    return text.replace("``", "`")


def render_items(lines: list[str]) -> list[str]:
    """Render ``name: text`` with indented further lines as a list; other text unchanged."""
    out: list[str] = []
    for line in lines:
        match = ITEM.match(line)
        if match:
            names = ", ".join(f"`{name}`" for name in match[1].split(", "))
            out.append(f"- {names}: {inline(match[2])}")
        elif line.startswith(" ") and out and out[-1].startswith("- "):
            out[-1] += f" {inline(line.strip())}"
        else:
            out.append(inline(line))
    return out


def render_docstring(text: str) -> list[str]:
    """Render a Google-style docstring: paragraphs, then its sections."""
    out: list[str] = []
    lines = text.splitlines()
    i = 0
    while i < len(lines):
        name = lines[i].removesuffix(":")
        if lines[i].endswith(":") and name in SECTIONS:
            block = []
            i += 1
            while i < len(lines) and (not lines[i] or lines[i].startswith("    ")):
                block.append(lines[i][4:])
                i += 1
            items = render_items([line for line in block if line])
            shown = "Arguments" if name == "Args" else name
            if items and items[0].startswith("- "):
                out += [f"{shown}:", "", *items, ""]
            else:
                out += [f"{shown}: {' '.join(item.strip() for item in items)}", ""]
        else:
            out.append(inline(lines[i]))
            i += 1
    while out and not out[-1]:
        out.pop()
    return out


def signature(node: Function, name: str) -> str:
    """Return ``name(a: int, ...) -> str``, one argument per line if it is long."""
    arguments = render_arguments(node.args)
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    line = f"{name}({', '.join(arguments)}){returns}"
    if len(line) <= 90:
        return line
    return f"{name}(\n" + "".join(f"    {text},\n" for text in arguments) + f"){returns}"


def render_arguments(arguments: ast.arguments) -> list[str]:
    """Return the arguments as they are written, without ``self``."""
    before = [*arguments.posonlyargs, *arguments.args]
    missing: list[ast.expr | None] = [None] * (len(before) - len(arguments.defaults))
    shown = [_argument(*pair) for pair in zip(before, missing + arguments.defaults, strict=True)]
    if before and before[0].arg in ("self", "cls"):
        del shown[0]
    if arguments.vararg:
        shown.append(f"*{_argument(arguments.vararg)}")
    elif arguments.kwonlyargs:
        shown.append("*")
    shown += map(_argument, arguments.kwonlyargs, arguments.kw_defaults)
    if arguments.kwarg:
        shown.append(f"**{_argument(arguments.kwarg)}")
    return shown


def _argument(argument: ast.arg, default: ast.expr | None = None) -> str:
    text = ast.unparse(argument)
    if default is None:
        return text
    return f"{text} = {ast.unparse(default)}" if argument.annotation else (
        f"{text}={ast.unparse(default)}")


def is_public(node: ast.AST) -> bool:
    return not getattr(node, "name", "_").startswith("_") and bool(ast.get_docstring(node))


def decorators(node: ast.AST) -> set[str]:
    return {ast.unparse(d).split("(")[0].split(".")[-1] for d in node.decorator_list}


def render_function(node: Function, level: int, owner: str = "") -> list[str]:
    kinds = decorators(node)
    lines = [f"{'#' * level} `{owner}{node.name}`", ""]
    if "property" in kinds:
        returns = f": {ast.unparse(node.returns)}" if node.returns else ""
        lines += ["```python", f"{node.name}{returns}", "```", ""]
    else:
        shown = kinds & {"classmethod", "staticmethod", "contextmanager"}
        lines += ["```python", *(f"@{name}" for name in sorted(shown)),
                  *signature(node, node.name).splitlines(), "```", ""]
    return [*lines, *render_docstring(ast.get_docstring(node)), ""]


def render_class(node: ast.ClassDef) -> list[str]:
    lines = [f"### `{node.name}`", ""]
    start = next((n for n in node.body if isinstance(n, Function) and n.name == "__init__"), None)
    if start is not None:
        lines += ["```python", *signature(start, node.name).removesuffix(" -> None").splitlines(),
                  "```", ""]
    elif "dataclass" in decorators(node):
        fields = [ast.unparse(n) for n in node.body if isinstance(n, ast.AnnAssign)]
        lines += ["```python", f"{node.name}(", *(f"    {text}," for text in fields), ")", "```",
                  ""]
    lines += [*render_docstring(ast.get_docstring(node)), ""]
    for child in node.body:
        if isinstance(child, Function) and is_public(child):
            lines += render_function(child, 4, f"{node.name}.")
    return lines


def render_module(path: Path, name: str, wanted: list[str]) -> tuple[list[str], list[str]]:
    """Return a module's text and the names in it, in the order of ``wanted`` or of the source."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    source = path.relative_to(ROOT)
    public = {node.name: node for node in tree.body
              if isinstance(node, ast.ClassDef | Function) and is_public(node)}
    names = wanted or list(public)
    lines = [f"## `{name}`", "", f"[{source}](../{source})", "",
             *render_docstring(ast.get_docstring(tree) or ""), ""]
    for item in names:
        if item not in public:
            raise SystemExit(f"tools/make_api_docs.py: {source} has no public {item}, with a "
                             "docstring; correct MODULES")
        node = public[item]
        lines += render_class(node) if isinstance(node, ast.ClassDef) else render_function(node, 3)
    return lines, names


def source_of(module: str) -> Path:
    return ROOT / "openvclip" / f"{module.replace('.', '/')}.py"


def anchor(heading: str) -> str:
    """Return the anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def render() -> str:
    """Return the whole page."""
    contents, body = [], []
    for group, modules in MODULES.items():
        if not any(source_of(module).is_file() for module in modules):
            continue
        contents += ["", f"**{group}**", ""]
        for module, wanted in modules.items():
            path = source_of(module)
            if not path.is_file():
                continue
            name = f"openvclip.{module}"
            lines, names = render_module(path, name, wanted.split())
            body += lines
            contents.append(f"- [`{name}`](#{anchor(name)}): "
                            f"{', '.join(f'`{item}`' for item in names)}")
    return "\n".join([HEADING.rstrip(), *contents, "", *body]).rstrip() + "\n"


def main(argv: list[str] | None = None) -> int:
    return run_tool(lambda: make(argv))


def make(argv: list[str] | None) -> int:
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if "
                        "docs/api.md is out of date")
    args = parser.parse_args(argv)
    text = render()
    if OUTPUT.is_file() and OUTPUT.read_text(encoding="utf-8") == text:
        print("docs/api.md is up to date")
        return 0
    if args.check:
        print("docs/api.md is out of date; run: python tools/make_api_docs.py", file=sys.stderr)
        return 1
    OUTPUT.write_text(text, encoding="utf-8")
    print("wrote docs/api.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
