"""The table of open_clip's towers: what each costs, what it takes, how its frames may be joined."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from openvclip.clip.open_clip_weights import build_open_clip
from openvclip.config.doors import TEMPORAL
from openvclip.models.backbone.open_clip import OpenCLIP
from openvclip.models.backbone.survey import Surveyed, count_parameters, survey_tower
from openvclip.utils.errors import DataError, first_line
from openvclip.utils.files import read_text

FRAMES = 8  # of the clip that is counted
IMAGENET = "ImageNet 1k"  # the column of open_clip's results
HEAD = ("model", "weights", "image tower, M parameters", "GFLOPs of a clip", "input", "tokens",
        "temporal variants")


@dataclass(frozen=True)
class Listed:
    """One row: a model, and those of its weights that take the same input.

    Attributes:
        name: open_clip's.
        tags: of the weights.
        parameters: of the image tower.
        flops: of 8 frames in the image tower, one by one, a multiplication and an addition
            counted as two.
        size: height and width of the input, in pixels.
        resizing: how images are resized to it: mode and filter.
        tokens: of a frame; 0 in a convolutional tower.
        variants: names of MODEL.TEMPORAL_MODELING_TYPE that can be used.
    """

    name: str
    tags: tuple[str, ...]
    parameters: int
    flops: int
    size: tuple[int, int]
    resizing: str
    tokens: int
    variants: tuple[str, ...]


def list_variants() -> list[str]:
    """Return the temporal variants by name."""
    return [name for name in TEMPORAL.names() if name is not None]


def measure(model: OpenCLIP) -> tuple[int, int]:
    """Return the floating-point operations of 8 frames, and the tokens of a frame.

    Nothing is computed: shapes alone tell.
    """
    shapes: list[torch.Size] = []

    def note(_module: nn.Module, inputs: tuple) -> None:
        shapes.append(inputs[0].shape)

    hook = next(iter(model.vision_blocks())).register_forward_pre_hook(note)
    frames = torch.empty(FRAMES, 3, *model.preprocess.size, device="meta")
    counter = FlopCounterMode(display=False)
    with counter:
        model.to("meta").eval().encode_image(frames)
    hook.remove()
    return counter.get_total_flops(), shapes[0][1] if shapes and len(shapes[0]) == 3 else 0


def describe(found: Surveyed) -> Listed:
    """Return the row of one pair, for which all temporal variants are tried."""
    tower = found.tower
    alone = OpenCLIP(build_open_clip(tower.config, tower.label, image_only=True), tower)
    flops, tokens = measure(alone)
    variants = tuple(name for name in list_variants() if not survey_tower(tower, name).clips)
    own = tower.preprocess
    return Listed(tower.name, (tower.tag,), count_parameters(alone.visual), flops, own.size,
                  f"{own.resize_mode}, {own.interpolation}", tokens, variants)


def list_towers(surveyed: Iterable[Surveyed]) -> Iterator[Listed]:
    """Yield a row for each model; weights that take another input have one of their own."""
    known: dict[str, Listed] = {}
    waiting: Listed | None = None
    for found in surveyed:
        if found.model is None:  # it cannot be built, as --check says
            continue
        tower = found.tower
        key = repr((tower.config["vision_cfg"], tower.config.get("quick_gelu"), tower.preprocess))
        if key not in known:
            known[key] = describe(found)
        row = replace(known[key], name=tower.name, tags=(tower.tag,))
        if waiting is not None and replace(row, tags=waiting.tags) == waiting:
            waiting = replace(waiting, tags=(*waiting.tags, *row.tags))
            continue
        if waiting is not None:
            yield waiting
        waiting = row
    if waiting is not None:
        yield waiting


def read_results(path: str | Path) -> dict[str, float]:
    """Read ``name/tag`` -> accuracy on ImageNet in per cent from open_clip's table of results.

    Raises:
        DataError: the file cannot be read, or is not that table.
    """
    try:
        rows = list(csv.DictReader(io.StringIO(read_text(path))))
        return {f"{row['name']}/{row['pretrained']}": 100 * float(row[IMAGENET]) for row in rows}
    except (OSError, KeyError, TypeError, ValueError, csv.Error) as error:
        raise DataError(
            f"{path} is not a table of open_clip's results ({type(error).__name__}: "
            f"{first_line(error)}); give docs/openclip_results.csv of its repository, with the "
            f"columns name, pretrained and {IMAGENET}"
        ) from error


def format_row(row: Listed, results: Mapping[str, float] | None = None) -> str:
    """Return a row of the table in Markdown, with the last column for :func:`read_results`."""
    every = list_variants()
    variants = "all" if len(row.variants) == len(every) else ", ".join(row.variants) or "none"
    height, width = row.size
    size = str(height) if height == width else f"{height}x{width}"
    cells: tuple[str, ...] = (
        row.name, ", ".join(row.tags), f"{row.parameters / 1e6:.1f}", f"{row.flops / 1e9:.0f}",
        f"{size}, {row.resizing}", str(row.tokens) if row.tokens else "-", variants,
    )
    if results is not None:
        known = (results.get(f"{row.name}/{tag}") for tag in row.tags)
        cells += (", ".join("-" if value is None else f"{value:.1f}" for value in known),)
    return f"| {' | '.join(cells)} |"


def format_head(results: Mapping[str, float] | None = None) -> str:
    """Return the two lines above the table's rows."""
    head = HEAD if results is None else (*HEAD, "ImageNet, %, of each, by open_clip's own table")
    return f"| {' | '.join(head)} |\n|{'---|' * len(head)}"


def summarize(surveyed: Iterable[Surveyed]) -> tuple[int, int, int, Mapping[str, list[str]]]:
    """Count the pairs, those whose frames can be encoded, and those whose frames see each other.

    Returns:
        The three numbers, and reason -> the pairs that are refused for it.
    """
    pairs = frames = clips = 0
    reasons: dict[str, list[str]] = {}
    for found in surveyed:
        pairs, frames, clips = pairs + 1, frames + (not found.frames), clips + (not found.clips)
        if found.clips:
            # The message names the first pair that was built of this tower.
            reason = re.sub(r"the frames of \S+", "the frames of this tower", found.clips)
            reasons.setdefault(reason, []).append(found.tower.label)
    return pairs, frames, clips, reasons
