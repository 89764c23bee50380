"""Whether a test was made as its protocol says: label set, prompts, views, videos."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from openvclip.data.lists.labels import LabelSpace
from openvclip.data.lists.protocols import PROTOCOLS, Protocol, draw_halves
from openvclip.report.summary.published import PUBLISHED_PROMPTS_SHA256, PUBLISHED_SETUP
from openvclip.utils.errors import DataError

# Kind of note -> mark after the numbers that it is about, in the order in which they are shown.
MARKS = {"partial": "†", "failed": "‡", "rows": "§", "setup": "¶", "seen": "‖"}


class SetupCheck:
    """Compares tests with the label maps that ship with the project and the published setup.

    Args:
        root: folder with ``label_db`` and ``zs_label_db``.

    Attributes:
        unread: label maps that could not be read -> why.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self.unread: dict[str, str] = {}
        self._spaces: dict[str, LabelSpace | None] = {}

    def find_faults(self, content: dict[str, Any], protocol: Protocol) -> Iterator[str]:
        """Yield the ways in which results differ from their protocol."""
        labels, (wanted, name) = content.get("label_set") or {}, self._label_space(protocol)
        if wanted is not None and labels.get("sha256") != wanted.digest():
            yield (
                f"another label set: {labels.get('file')} with {labels.get('classes')} classes; "
                f"the protocol's is {name}"
            )
        prompts = content.get("prompts") or {}
        if prompts.get("sha256") != PUBLISHED_PROMPTS_SHA256:
            texts = name_prompts(prompts)
            yield (
                f"another prompt set{texts and f', {texts}'} (count {prompts.get('count')}, "
                f"sha256 {str(prompts.get('sha256'))[:8]})"
            )
        other = [
            f"{name} {content[name]} instead of {value}"
            for name, value in PUBLISHED_SETUP.items() if content.get(name, value) != value
        ]
        if other:
            yield ", ".join(other)

    def _label_space(self, protocol: Protocol) -> tuple[LabelSpace | None, str]:
        """Return the classes that a protocol tests, None if their map is missing, and their name.

        Those of a half are drawn from the full map, since their own maps are made with the lists.
        """
        if protocol.kind != "half" or protocol.of is None:
            return self._read(protocol.label_map), protocol.label_map
        full = PROTOCOLS[protocol.of]
        draw = int(re.findall(r"\d+$", protocol.name)[0])  # one of ten, from 0
        space = self._read(full.label_map)
        if space is not None and len(space) == full.classes:
            labels = draw_halves(full.classes, protocol.classes)[draw]
            space = LabelSpace(tuple(space.names[label] for label in labels))
        return space, f"draw {draw} of {full.label_map}"

    def _read(self, label_map: str) -> LabelSpace | None:
        if label_map not in self._spaces:
            self._spaces[label_map] = None
            try:
                self._spaces[label_map] = LabelSpace.from_json(self.root / label_map)
            except DataError as error:
                self.unread[label_map] = str(error)
        return self._spaces[label_map]


def name_prompts(prompts: dict[str, Any]) -> str:
    """Say which texts results were made with; "" if that was not recorded."""
    descriptions = prompts.get("descriptions")
    if isinstance(descriptions, dict):
        return f"descriptions {Path(str(descriptions.get('file'))).name}"
    return Path(str(prompts.get("name") or "")).name


def count_trained(content: Mapping[str, Any]) -> int:
    """Return how many of the tested videos are known to have been trained on."""
    overlap = content.get("tested_on_training")
    count = overlap.get("videos") if isinstance(overlap, dict) else 0
    return count if isinstance(count, int) else 0


def say_trained(content: Mapping[str, Any]) -> str:
    """Say how many of the tested videos were trained on."""
    return (f"{count_trained(content):,} of {content['videos']:,} videos are in the list that the "
            "weights were trained on")
