"""Labels that a user typed: checked before anything long begins."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from openvclip.clip.tokenizer import clean_text, tokenize
from openvclip.data.lists.labels import read_label_file, split_labels
from openvclip.models.text import TEMPLATES
from openvclip.utils.errors import ConfigError, DataError


def read_labels(texts: Sequence[str] | None, file: str | Path | None) -> tuple[str, ...]:
    """Return the labels of a tool's ``--labels`` or ``--label-file``.

    Raises:
        ConfigError: neither or both are given.
        DataError: see :func:`check_labels` and :func:`openvclip.data.lists.labels.read_label_file`.
    """
    if file and not texts:
        return check_labels(read_label_file(file), where=f"--label-file {file}")
    if texts and not file:
        return check_labels(split_labels(texts), where="--labels")
    raise ConfigError("give the labels either with --labels \"one, another\" or with "
                          "--label-file FILE")


def check_labels(
    labels: Sequence[str], context_length: int = 77, where: str = "labels"
) -> tuple[str, ...]:
    """Return the labels, stripped of space at their ends, if a classifier can be made from them.

    Args:
        labels: texts, one per class.
        context_length: most tokens of a sentence, including the template's own.
        where: what to call the labels in errors: an option or a file.

    Raises:
        DataError: there are none; one is empty, not a text, the same as another except for case
            and spaces (to CLIP they are one text), or too long.
    """
    if isinstance(labels, str):
        raise DataError(f"{where}: {_show(labels)} is one text; give a list of them")
    if not labels:
        raise DataError(f"{where}: there are no labels; give at least two")
    sentence = max(TEMPLATES, key=_count)
    seen: dict[str, int] = {}
    for number, label in enumerate(labels, 1):
        if not isinstance(label, str):
            raise DataError(f"{where}: label {number} is a {type(label).__name__}, not a text")
        text = clean_text(label)
        if not text:
            raise DataError(f"{where}: label {number} of {len(labels)} is empty; remove it")
        if text in seen:
            raise DataError(
                f"{where}: labels {seen[text]} and {number} are the same, {_show(label)} (capitals "
                "do not count); remove one"
            )
        seen[text] = number
        count = _count(sentence.format(label))
        if count > context_length:
            raise DataError(
                f"{where}: label {number} is too long: {_show(label)} makes a sentence of {count} "
                f"tokens, and CLIP reads {context_length}; shorten it"
            )
    return tuple(label.strip() for label in labels)


def _count(text: str) -> int:
    """Number of tokens of a text, including those for its start and end."""
    return int(tokenize([text], 77 + 8 * len(text)).argmax()) + 1


def _show(label: str) -> str:
    return repr(label if len(label) <= 60 else f"{label[:57]}...")
