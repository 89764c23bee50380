"""Paths that may be addresses: what a config or a tool names may be a URL, for example.

iopath's ``PathManager`` finds the handler of an address by its beginning. ``http://`` and
``https://`` are built in: the file is downloaded once to a cache, ``$OPENVCLIP_CACHE`` or
``~/.cache/openvclip``. Other stores need a handler from the user, see :func:`register_handler`.
"""

from __future__ import annotations

import errno
import hashlib
import http.client
import logging
import os
import re
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from iopath.common.file_io import HTTPURLHandler, PathHandler, PathManager, file_lock

from openvclip.utils.errors import CheckpointError, describe_os_error, first_line

# The largest CLIPs have about 20 GB in fp32.
MOST_BYTES = 64 << 30
SILENCE_SECONDS = 60  # A server that sends nothing for this long is given up.
# The logger of utils/logging.py, which is built on this file.
logger = logging.getLogger(__name__)
# pathlib makes one slash of the two of an address.
_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/{1,2}(?=[^/])")


class DownloadHandler(HTTPURLHandler):
    """Downloads a URL to the cache: whole or not at all, by one process, with a bounded size.

    Args:
        replacing: gives a temporary file that replaces a path at the end of its block.
    """

    def __init__(self, replacing: Callable[[Path], AbstractContextManager[Path]]) -> None:
        super().__init__()
        self._replacing = replacing

    def _get_supported_prefixes(self) -> list[str]:
        return ["http://", "https://"]

    def _get_local_path(self, path: str, force: bool = False, **kwargs: Any) -> str:
        self._check_kwargs(kwargs)
        cache = Path(os.environ.get("OPENVCLIP_CACHE") or "~/.cache/openvclip").expanduser()
        name = unquote(urlsplit(path).path).rpartition("/")[2][-100:].strip(". ") or "file"
        # Two servers may have files of the same name.
        target = cache / hashlib.sha256(path.encode()).hexdigest()[:24] / name
        if force or not target.is_file():
            with file_lock(str(target)):
                if force or not target.is_file():
                    with self._replacing(target) as temporary:
                        _download(path, temporary)
        return str(target)


def _download(url: str, temporary: Path) -> None:
    """Write what ``url`` holds to a file."""
    logger.info("downloading %s", _without_secrets(url))
    try:
        with open(temporary, "wb") as file, \
                urllib.request.urlopen(url, timeout=SILENCE_SECONDS) as answer:
            while part := answer.read(1 << 20):
                file.write(part)
                if file.tell() > MOST_BYTES:
                    raise ValueError(f"it has more than {MOST_BYTES:,} bytes")
            promised = int(answer.headers.get("Content-Length", file.tell()))
            if file.tell() != promised:
                raise ValueError(f"it ended after {file.tell():,} of {promised:,} bytes")
    except urllib.error.HTTPError as error:
        code = errno.ENOENT if error.code in (404, 410) else errno.EIO
        raise OSError(code, f"cannot be downloaded: HTTP {error.code} {error.reason}",
                      _without_secrets(url)) from error
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = str(getattr(error, "reason", error))
        raise OSError(errno.EIO, f"cannot be downloaded: {reason}",
                      _without_secrets(url)) from error


def _without_secrets(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


manager = PathManager()
_prefixes: list[str] = []


def register_handler(handler: PathHandler) -> None:
    """Let addresses that begin with the handler's prefixes be read through it, everywhere.

    Args:
        handler: its ``_get_supported_prefixes`` gives beginnings such as ``s3://``; its
            ``_get_local_path(path)`` fetches the file and returns where it is on this machine.
    """
    manager.register_handler(handler)
    _prefixes.extend(handler._get_supported_prefixes())


def is_address(path: str | os.PathLike) -> bool:
    """Whether a path has the form of an address, ``scheme://...``, and is not a local file."""
    text = os.fspath(path)
    return _ADDRESS.match(text) is not None and not os.path.lexists(text)


def local(path: str | os.PathLike[str]) -> str | os.PathLike[str]:
    """Return where a file is on this machine, fetched if it is an address; paths unchanged.

    Raises:
        FileNotFoundError: the server has no such file.
        OSError: there is no handler for the address, or the file cannot be fetched.
    """
    if not is_address(path):
        return path
    text = os.fspath(path)
    scheme = _ADDRESS.match(text)
    assert scheme is not None  # as is_address says
    address = f"{scheme[1]}://{text[scheme.end():]}"
    if not address.startswith(tuple(_prefixes)):
        raise OSError(errno.EPROTONOSUPPORT, f"no handler for {scheme[1]}:// is registered (see "
                      "docs/data.md), and there is no such file", address)
    try:
        return manager.get_local_path(address)
    except OSError:
        raise
    except Exception as error:  # whatever a handler's library raises
        raise OSError(errno.EIO, f"cannot be fetched: {first_line(error)}", address) from error


def local_weights(path: str | os.PathLike) -> Path:
    """Return where a file of weights is on this machine, as :func:`local`; ``~`` is expanded.

    Raises:
        CheckpointError: there is no such file at the address, or it cannot be fetched.
    """
    try:
        return Path(local(path)).expanduser()
    except OSError as error:
        raise CheckpointError(f"{describe_os_error(error)}; check the address") from error


def is_file(path: str | os.PathLike) -> bool:
    """Whether a file exists, here or at its address.

    Raises:
        OSError: as :func:`local`, except for missing files.
    """
    try:
        return os.path.isfile(local(path))
    except FileNotFoundError:
        return False
