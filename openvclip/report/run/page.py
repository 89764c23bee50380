"""A test's ``report.html``: one file that needs no network, for a browser or a phone.

``report.html`` and ``report.js`` have what every report shows; what a kind of test shows besides
is in the files of :data:`PARTS`.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

from openvclip.utils.files import replacing
from openvclip.utils.logging import get_logger

logger = get_logger(__name__)

# Characters that could end the element that contains the data, or begin a comment or entity.
_UNSAFE = str.maketrans({sign: f"\\u{ord(sign):04x}" for sign in "<>&"})

# Kind of test -> its sections, its scripts, and the files that have its numbers.
PARTS = {
    "classes": ("classes.html", ("report.js", "matrix.js", "classes.js"),
                "results.json and per_class.csv"),
    "retrieval": ("retrieval.html", ("report.js", "retrieval.js"), "results.json"),
}


def write_report(path: Path, build: Callable[[], dict[str, Any]], kind: str = "classes") -> None:
    """Write the report of a test that has its numbers; errors become warnings.

    Args:
        path: the file; it is whole or not there.
        build: makes the details, see :func:`write_html`.
        kind: one of :data:`PARTS`.
    """
    try:
        write_html(path, build(), kind)
        logger.info("wrote %s", path)
    # Whatever it is: the numbers are written, and a test of hours must not end as failed.
    except Exception as error:
        logger.warning("could not write %s (%s: %s); the numbers are in results.json",
                       path, type(error).__name__, error)


def write_html(path: str | Path, details: dict[str, Any], kind: str = "classes") -> None:
    """Write the report that shows ``details``.

    Args:
        path: the file; it is whole or not there.
        details: what :func:`openvclip.report.run.details.build_details` or
            :func:`openvclip.report.run.retrieval_details.build_retrieval_details` gives:
            what JSON can hold; texts may have any characters.
        kind: one of :data:`PARTS`.

    Raises:
        OSError: it cannot be written.
    """
    page = format_html(details, kind)
    with replacing(path) as file:
        file.write(page)


def format_html(details: dict[str, Any], kind: str = "classes") -> str:
    """Put data, style and script into the page; its policy allows only these."""
    details = clean(details)
    sections, scripts, files = PARTS[kind]
    style, script = _read("report.css"), "".join(_read(name) for name in scripts)
    return Template(_read("report.html")).substitute(
        policy=f"default-src 'none'; img-src data:; style-src {_hash(style)}; "
               f"script-src {_hash(script)}; base-uri 'none'; form-action 'none'",
        title=html.escape(details["title"]),
        headline=html.escape(details["headline"]),
        weights=html.escape(details["weights"]),
        caution=html.escape(details["caution"] and f" {details['caution']}"),
        files=files,
        style=style,
        sections=_read(sections),
        data=to_safe_json(details),
        script=script,
    )


def to_safe_json(value: Any) -> str:
    """Format as JSON in ASCII that may stand in an HTML element and means the same to a parser."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.translate(_UNSAFE)


def clean(value: Any) -> Any:
    """Return ``value`` with bytes of names that are not text, lone surrogates, as ``\\udcff``."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, dict):
        return {clean(key): clean(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [clean(item) for item in value]
    return value


def _read(name: str) -> str:
    return resources.files("openvclip.report.run").joinpath("page_files", name).read_text("utf-8")


def _hash(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"'sha256-{digest}'"
