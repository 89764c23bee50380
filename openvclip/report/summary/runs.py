"""The output folders of tests: what is in their ``results.json``, and which have none."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from openvclip.config.stored import CONFIG, find_output_dir, has_trained, read_config
from openvclip.data.lists.draws import Draw, parse_draw
from openvclip.data.lists.labels import find_digest
from openvclip.data.lists.protocols import Protocol, find_protocol
from openvclip.report.retrieval_numbers import name_numbers
from openvclip.utils.errors import DataError
from openvclip.utils.files import MOST_JSON_BYTES, compute_file_hash, open_regular, read_text
from openvclip.utils.json_text import parse_json

RESULTS = "results.json"
BACKBONES = {"vitb32": "B/32", "vitb16": "B/16", "vitl14": "L/14", "vitl14_336": "L/14@336"}
# Folders of a run that contain no tests, but possibly very many files.
NO_TESTS = {"checkpoints", "text_cache"}


@dataclass(frozen=True)
class Run:
    """One test's results."""

    folder: Path  # where its results.json is
    content: dict[str, Any]  # what that holds
    written: float  # when it was written, in seconds
    backbone: str  # such as B/16, or ? where that is not known

    @cached_property
    def protocol(self) -> Protocol | None:
        """The protocol of the list that was tested, if it is one."""
        return find_protocol(self.content["list"])

    @property
    def failed(self) -> int:
        """How many videos could not be decoded."""
        return len(self.content["failed"])

    @property
    def weights(self) -> str | None:
        """What identifies the weights; None: the untouched CLIP."""
        checkpoint = self.about("checkpoint")
        file, which = checkpoint.get("sha256") or checkpoint.get("file"), checkpoint.get("weights")
        return f"{file} {which}" if which else file

    @cached_property
    def trained_classes(self) -> bool | None:
        """Whether the weights were trained on the tested classes; None: unknown.

        Decided by the SHA-256 of the two label sets. Results of older versions do not have that of
        the training, which is then taken from the label map that its config next to the checkpoint
        names, or, where that map has gone, from the map's file name.
        """
        tested, trained = self.about("label_set"), self.about("trained_on").get("label_set")
        if trained and tested.get("sha256"):
            return trained == tested["sha256"]
        config = read_config(find_output_dir(str(self.about("checkpoint").get("file", "")))) or {}
        if not has_trained(config):
            return None
        label_map = str((config.get("DATA") or {}).get("INDEX_LABEL_MAPPING_FILE"))
        digest = find_digest(label_map)
        if digest and tested.get("sha256"):
            return digest == tested["sha256"]
        return Path(label_map).name == Path(str(tested.get("file"))).name

    @cached_property
    def draw(self) -> Draw | None:
        """The draw that the weights were trained on, else that of the tested list; None: no draw.

        Lists of several shots and seeds have the same test videos, so that the list does not tell.
        """
        own = parse_draw(self.content.get("draw"))
        trained = parse_draw(self.about("trained_on").get("draw"))
        if own is None or trained is None or trained.dataset != own.dataset:
            return own
        fits = trained.kind == ("few-shot" if own.kind == "few-shot" else "base")
        return Draw(own.kind, own.dataset, trained.shots, trained.seed) if fits else own

    def about(self, name: str) -> dict[str, Any]:
        """Return what the results say of their ``clip``, ``trained_on`` ...; {}: nothing."""
        value = self.content.get(name)
        return value if isinstance(value, dict) else {}


@dataclass(frozen=True)
class Problem:
    """A test's folder without results to show, and what is wrong there."""

    folder: Path
    what: str


def read_results(path: str | Path) -> dict[str, Any]:
    """Read a test's ``results.json`` and check the fields that its numbers depend on.

    Raises:
        DataError: the file is missing or is not a test's results.
    """
    try:
        content = parse_json(read_text(path, most=MOST_JSON_BYTES))
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {path}: {error}; run the test again") from error
    fault = _find_fault(content)
    if fault:
        raise DataError(f"{path} does not hold a test's results: {fault}; run the test again")
    return content


def _find_fault(content: Any) -> str | None:
    """Say why ``content`` is not a test's results; None: it is."""
    if not isinstance(content, dict):
        return f"it is a {type(content).__name__}, not an object"
    kinds = {"list": str, "videos": int, "failed": list, "results": list}
    for name, kind in kinds.items():
        if not isinstance(content.get(name), kind):
            return f"{name!r} is {content.get(name)!r}"
    for name in ("label_set", "prompts", "clip", "checkpoint", "captions"):
        if not isinstance(content.get(name), dict | None):
            return f"{name!r} is {content[name]!r}"
    if not content["results"] or not content["videos"]:
        return "it has no videos"
    for failure in content["failed"]:
        row = failure.get("row") if isinstance(failure, dict) else None
        if not isinstance(row, int) or not 0 <= row < content["videos"]:
            return f"'failed' has {failure!r}"
    for row in content["results"]:
        if not isinstance(row, dict) or not isinstance(row.get("patching_ratio"), float | None):
            return f"'results' has {row!r}"
        for value in _headline(content, row):
            if not isinstance(value, int | float) or not math.isfinite(value):
                return f"a row of 'results' has the accuracy {value!r}"
    return None


def _headline(content: dict, row: dict) -> list[Any]:
    """The numbers of a row that a summary shows, None for one that is missing."""
    if content.get("task") == "retrieval":
        return [row.get(name) for name in name_numbers()]
    return [row.get("top1", row.get("map_decoded"))]


def find_runs(folders: Sequence[str | Path]) -> tuple[list[Run], list[Problem]]:
    """Find all tests in and under ``folders``; each folder is read once.

    Raises:
        DataError: one of ``folders`` does not exist.
    """
    runs: list[Run] = []
    problems: list[Problem] = []
    for folder, files in _walk(folders):
        if RESULTS not in files:
            problems.extend(_unfinished(folder) if CONFIG in files else [])
            continue
        try:
            content = read_results(folder / RESULTS)
        except DataError as error:
            problems.append(Problem(folder, str(error)))
            continue
        written = (folder / RESULTS).stat().st_mtime
        runs.append(Run(folder, content, written, find_backbone(folder, content)))
        if CONFIG in files and _is_outdated(folder, content):
            problems.append(Problem(folder, _OUTDATED + _last_error(folder)))
    return runs, problems


_OUTDATED = (
    f"{CONFIG} is not the one that {RESULTS} was made with: a later test there failed or is "
    "unfinished, and the results are the earlier one's"
)


def _walk(folders: Sequence[str | Path]) -> Iterator[tuple[Path, set[str]]]:
    """Yield every folder once, with the names of its files."""
    seen: set[Path] = set()
    for top in folders:
        if not Path(top).is_dir():
            raise DataError(f"there is no folder {top}; give the folder that the tests wrote to")
        for where, inner, files in os.walk(top):
            inner[:] = sorted(name for name in inner if name not in NO_TESTS and name[0] != ".")
            if (resolved := Path(where).resolve()) in seen:
                continue
            seen.add(resolved)
            yield Path(where), set(files)


def _is_outdated(folder: Path, content: dict[str, Any]) -> bool:
    """Whether ``config.yaml`` is that of a later test, which left no results."""
    wanted = content.get("config_sha256")
    if not wanted or "derived_from" in content:
        return False
    if compute_file_hash(folder / CONFIG) == wanted:
        return False
    config = read_config(folder)
    return config is None or bool(config.get("TEST", {}).get("ENABLE"))


def _unfinished(folder: Path) -> list[Problem]:
    """Name the results that a folder with a config but without results should have."""
    config = read_config(folder)
    if config is None:
        return [Problem(folder, f"no {RESULTS}, and {CONFIG} cannot be read")]
    test = config.get("TEST", {})
    if not test.get("ENABLE"):
        return []
    views = test.get("NUM_TEMPORAL_CLIPS") or []
    wanted = [folder / f"views_{count}" for count in views] or [folder]
    what = f"no {RESULTS}: the test failed or is unfinished{_last_error(folder)}"
    return [Problem(path, what) for path in wanted if not (path / RESULTS).is_file()]


def _last_error(folder: Path) -> str:
    """Return the last error of the run's log as ``; its log says: ...``, or nothing."""
    try:
        with open_regular(folder / "stdout.log") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 65536))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return ""
    said = [line.split("[ERROR]", 1)[1].strip() for line in lines if "[ERROR]" in line]
    return f"; its log says: {said[-1][:200]}" if said else ""


def find_arch(folder: Path, content: dict[str, Any]) -> str:
    """Return ``MODEL.ARCH`` of a test, from its results or its config; "" if neither says."""
    if content.get("arch"):
        return str(content["arch"])
    for place in (folder, folder.parent):  # views_N has its config one folder up
        model = (read_config(place) or {}).get("MODEL")
        if isinstance(model, dict) and model.get("ARCH"):
            return str(model["ARCH"])
    return ""


def find_backbone(folder: Path, content: dict[str, Any]) -> str:
    """Return CLIP's image tower from ``MODEL.ARCH``, else from the CLIP file's name; else ``?``."""
    arch = find_arch(folder, content)
    if arch in BACKBONES:
        return BACKBONES[arch]
    name = Path(str((content.get("clip") or {}).get("source", ""))).name.lower()
    match = re.search(r"vit[-_]?([bl])[-_]?(32|16|14)([-_@]?336)?", name)
    key = "vit" + "".join(match.groups("")[:2]) + ("_336" if match[3] else "") if match else ""
    return BACKBONES.get(key, "?")
