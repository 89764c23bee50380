"""Which texts stand for the classes: a set of templates, a file of them, or descriptions."""

from __future__ import annotations

import ast
import difflib
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openvclip.clip.tokenizer import find_in_open_clip
from openvclip.config.validate import TEMPLATE_SETS
from openvclip.models.text import FROSTER_TEMPLATES, TEMPLATES, prompt_templates
from openvclip.utils.errors import ConfigError, DataError
from openvclip.utils.files import MOST_JSON_BYTES, read_bytes, read_table, read_text
from openvclip.utils.json_text import parse_json

# The 16 of ActionCLIP (arXiv 2109.08472) as in its code, without full stops.
ACTION_TEMPLATES: tuple[str, ...] = (
    "a photo of action {}", "a picture of action {}", "Human action of {}", "{}, an action",
    "{} this is an action", "{}, a video of action", "Playing action of {}", "{}",
    "Playing a kind of action, {}", "Doing a kind of action, {}", "Look, the human is {}",
    "Can you recognize the action of {}?", "Video classification of {}", "A video of {}",
    "The man is {}", "The woman is {}",
)
PROMPTS = "prompts"  # What results call the sentences with trained prompts.
DESCRIPTIONS = "descriptions"  # What results call texts that come from MODEL.CLASS_DESCRIPTIONS.
HINT = 'expected {"class name": "text", "other class": ["text", "text"]}'


@dataclass(frozen=True)
class TextChoice:
    """The texts that represent the classes.

    Attributes:
        name: the set's name, the file of templates, ``descriptions`` or ``prompts``.
        templates: sentences with one ``{}`` for the name; unused if there are descriptions.
        descriptions: class name -> its texts, used unchanged; None: the templates are used.
        file: where the descriptions come from.
        file_sha256: SHA-256 of that file.
    """

    name: str
    templates: tuple[str, ...]
    descriptions: Mapping[str, tuple[str, ...]] | None = None
    file: str = ""
    file_sha256: str = ""

    def facts(self) -> dict[str, Any]:
        """Return what results record: name, number and SHA-256 of the texts, and their file."""
        if self.descriptions is None:
            return {"name": self.name, "count": len(self.templates),
                    "sha256": _digest("\n".join(self.templates))}
        return {
            "name": self.name,
            "count": sum(map(len, self.descriptions.values())),
            "sha256": _digest(json.dumps(sorted(self.descriptions.items()))),
            "descriptions": {"file": self.file, "sha256": self.file_sha256},
        }


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def build_text_choice(
    cfg: Any, names: Sequence[str], prompted: bool | None = None
) -> TextChoice:
    """Read what MODEL.TEXT_TEMPLATES and MODEL.CLASS_DESCRIPTIONS name, or count prompts.

    Args:
        cfg: the config tree.
        names: the class names, which descriptions must cover.
        prompted: whether the CLIP has prompts; None: as MODEL.TEXT_PROMPT says.

    Raises:
        ConfigError: there is no such set and no such file.
        DataError: a file cannot be used.
    """
    if cfg.MODEL.TEXT_PROMPT if prompted is None else prompted:
        return TextChoice(PROMPTS, prompt_templates(cfg.MODEL.PROMPT_NUM))
    if cfg.MODEL.CLASS_DESCRIPTIONS:
        return load_descriptions(cfg.MODEL.CLASS_DESCRIPTIONS, names)
    return TextChoice(cfg.MODEL.TEXT_TEMPLATES, load_templates(cfg.MODEL.TEXT_TEMPLATES))


def load_templates(choice: str) -> tuple[str, ...]:
    """Return the templates of a set, or of a file with one per line.

    Args:
        choice: a name of :data:`openvclip.config.validate.TEMPLATE_SETS`, or a file.

    Raises:
        ConfigError: there is no such set and no such file.
        DataError: a line of the file does not have exactly one ``{}``, or has another brace.
    """
    if choice == "openvclip28":
        return TEMPLATES
    if choice == "action16":
        return ACTION_TEMPLATES
    if choice == "froster29":
        return FROSTER_TEMPLATES
    if choice == "name_only":
        return ("{}",)
    if choice == "openai_imagenet80":
        return _read_open_clip_templates("OPENAI_IMAGENET_TEMPLATES")
    return _read_templates(choice)


def _read_open_clip_templates(name: str) -> tuple[str, ...]:
    """Read ``(lambda c: f'a photo of {c}.', ...)``: importing open_clip would take seconds."""
    path = find_in_open_clip("zero_shot_metadata.py", "open_clip's prompts")
    try:
        lambdas: Any = next(
            node.value for node in ast.parse(read_text(path)).body
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name)
        return tuple("".join(str(part.value) if isinstance(part, ast.Constant) else "{}"
                             for part in each.body.values) for each in lambdas.elts)
    except (AttributeError, StopIteration, SyntaxError) as error:
        raise DataError(f"{path} has no {name} that can be read; install the open_clip_torch of "
                        "constraints.txt, or give MODEL.TEXT_TEMPLATES a file") from error


def _read_templates(path: str) -> tuple[str, ...]:
    try:
        lines = read_table(path, "utf-8-sig").splitlines()
    except FileNotFoundError as error:
        near = difflib.get_close_matches(path, TEMPLATE_SETS, n=1)
        raise ConfigError(
            f"MODEL.TEXT_TEMPLATES is {path!r}, which is neither a file nor one of "
            f"{', '.join(TEMPLATE_SETS)}" + (f"; nearest: {near[0]}" if near else "")
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the templates {path}: {error}") from error
    templates = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        if line.count("{}") != 1 or line.count("{") != 1 or line.count("}") != 1:
            raise DataError(
                f"{path}, line {number}: {line[:80]!r} is not a template; write one {{}} where the "
                "class name goes, and no other brace"
            )
        templates.append(line.strip())
    if not templates:
        raise DataError(f"{path} has no templates; write one per line, with one {{}}")
    return tuple(templates)


def load_descriptions(path: str | Path, names: Sequence[str]) -> TextChoice:
    """Read a JSON file of descriptions and check that it describes these classes and no others.

    Args:
        path: ``{"class name": "text" or ["text", ...], ...}``.
        names: the class names.

    Raises:
        DataError: the file cannot be used, lacks a class or has one that is unknown.
    """
    try:
        raw = read_bytes(path, MOST_JSON_BYTES)
        content = parse_json(raw.decode("utf-8-sig"), object_pairs_hook=_Pairs)
    except OSError as error:
        raise DataError(
            f"cannot read MODEL.CLASS_DESCRIPTIONS {path}: {error.strerror}; {HINT}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"MODEL.CLASS_DESCRIPTIONS {path} is not JSON: {error}; {HINT}") from error
    if not isinstance(content, _Pairs):
        raise DataError(f"MODEL.CLASS_DESCRIPTIONS {path} is not an object; {HINT}")
    described: dict[str, tuple[str, ...]] = {}
    for name, value in content:
        if name in described:
            raise DataError(f"{path}: the class {name!r} appears twice; join its texts")
        described[name] = _texts(value, f"{path}, class {name!r}")
    _check_classes(described, names, path)
    return TextChoice(DESCRIPTIONS, (), {name: described[name] for name in names}, str(path),
                      hashlib.sha256(raw).hexdigest())


class _Pairs(list):
    """A JSON object as its pairs, in which repeated keys are visible."""


def _texts(value: Any, where: str) -> tuple[str, ...]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or isinstance(texts, _Pairs) or not texts:
        raise DataError(f"{where}: {str(value)[:60]!r} is neither a text nor a list of texts")
    for text in texts:
        if not isinstance(text, str) or not text.strip():
            raise DataError(f"{where}: {str(text)[:60]!r} is not a text; give a sentence")
        try:
            text.encode()
        except UnicodeEncodeError as error:  # JSON can spell half characters.
            raise DataError(f"{where}: {text[:60]!r} is not text that UTF-8 can hold") from error
    return tuple(texts)


def _check_classes(described: Mapping[str, Any], names: Sequence[str], path: str | Path) -> None:
    unknown = [name for name in described if name not in set(names)]
    if unknown:
        near = difflib.get_close_matches(unknown[0], names, n=1, cutoff=0.0)
        raise DataError(
            f"{path}: {unknown[0]!r} is not a class of DATA.INDEX_LABEL_MAPPING_FILE, nearest: "
            f"{near[0]!r} ({len(unknown)} such names); classes are named as they are there"
        )
    missing = [name for name in names if name not in described]
    if missing:
        raise DataError(
            f"{path}: the class {missing[0]!r} has no description ({len(missing)} of {len(names)} "
            "have none); every class of DATA.INDEX_LABEL_MAPPING_FILE needs one"
        )
