"""What few-shot and base-to-novel lists were drawn from, in a file next to them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from openvclip.utils.errors import DataError
from openvclip.utils.files import MOST_JSON_BYTES, read_text
from openvclip.utils.json_text import parse_json

FILE = "draw.json"
KINDS = ("few-shot", "base", "novel")


@dataclass(frozen=True)
class Draw:
    """One draw of videos or classes from a dataset's lists.

    Attributes:
        kind: ``few-shot``, or ``base`` or ``novel``: a half of the classes.
        dataset: the protocol of the source lists (``ucf101_split1``), else their folder.
        shots: training videos per class.
        seed: seed of the draw.
    """

    kind: str
    dataset: str
    shots: int
    seed: int

    def dump(self) -> str:
        """Return the text of its file."""
        return json.dumps(asdict(self), indent=1) + "\n"


def parse_draw(content: Any) -> Draw | None:
    """Return the draw in ``content``, as stored in its file or a result; None: it is not one."""
    if not isinstance(content, dict) or content.get("kind") not in KINDS:
        return None
    types = {"kind": str, "dataset": str, "shots": int, "seed": int}
    fits = all(type(content.get(name)) is kind for name, kind in types.items())
    return Draw(**{name: content[name] for name in types}) if fits else None


def read_draw(folder: str | Path) -> Draw | None:
    """Return what the lists of a folder were drawn from; None: no draw made them.

    Raises:
        DataError: the file exists but does not say.
    """
    path = Path(folder) / FILE
    try:
        draw = parse_draw(parse_json(read_text(path, most=MOST_JSON_BYTES)))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"cannot read {path}: {error}; make the lists again") from error
    if draw is None:
        raise DataError(
            f"{path} does not say what its lists were drawn from; make them again with "
            "tools/prepare_labels.py few-shot or base-to-novel --overwrite"
        )
    return draw
