"""A test's ``report.html``: one file that needs no network, for a browser or a phone."""

from __future__ import annotations

import base64
import hashlib
import html
import json
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

from openvclip.utils.files import replacing

# Characters that could end the element that the data lie in, or begin a comment or entity there.
_UNSAFE = str.maketrans({sign: f"\\u{ord(sign):04x}" for sign in "<>&"})


def write_html(path: str | Path, details: dict[str, Any]) -> None:
    """Write the report that shows ``details``, see :func:`openvclip.report.details.build_details`.

    Args:
        path: the file; it is whole or not there.
        details: what JSON can hold; texts may have any characters.

    Raises:
        OSError: it cannot be written.
    """
    page = format_html(details)
    with replacing(path) as file:
        file.write(page)


def format_html(details: dict[str, Any]) -> str:
    """Put data, style and script into the page; its policy allows these and no other."""
    details = clean(details)
    style, script = _read("report.css"), _read("matrix.js") + _read("report.js")
    return Template(_read("report.html")).substitute(
        policy=f"default-src 'none'; img-src data:; style-src {_hash(style)}; "
               f"script-src {_hash(script)}; base-uri 'none'; form-action 'none'",
        title=html.escape(details["title"]),
        headline=html.escape(details["headline"]),
        style=style,
        data=to_safe_json(details),
        script=script,
    )


def to_safe_json(value: Any) -> str:
    """Format as JSON in ASCII that may stand in an HTML element and means the same to a parser."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.translate(_UNSAFE)


def clean(value: Any) -> Any:
    """Return ``value`` with bytes of names that are no text, lone surrogates, as ``\\udcff``."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, dict):
        return {clean(key): clean(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [clean(item) for item in value]
    return value


def _read(name: str) -> str:
    return resources.files("openvclip.report").joinpath("page", name).read_text("utf-8")


def _hash(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"'sha256-{digest}'"
