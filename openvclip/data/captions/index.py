"""Captions of videos in one indexed file, found by the video's name.

The file is an SQLite database with one table, ordered by name. A look-up reads a few pages, so
opening costs the same for ten captions as for a million, and all processes of a machine share the
part of the file that the system has in memory. It is opened read-only and as immutable, which needs
no locks: network disks often have none. ``tools/prepare_captions.py`` writes it.
"""

from __future__ import annotations

import os
import re
import shlex
import sqlite3
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from openvclip.data.prepare.names import VIDEO_EXTENSIONS
from openvclip.utils.errors import DataError, describe_os_error
from openvclip.utils.files import open_regular, replacing_file
from openvclip.utils.paths import local

APPLICATION = 0x4F564350  # "OVCP": tells the file from other SQLite databases.
VERSION = 1
# The stream of random numbers that captions are drawn from, apart from those of clips and crops.
DRAWS = 0x43415054
# Kinetics as CVDF serves it: a YouTube id, and the seconds at which the clip starts and ends.
TIMED = re.compile(r"(.{11})_\d{6}_\d{6}")

_TABLES = f"""
    PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;
    PRAGMA application_id = {APPLICATION}; PRAGMA user_version = {VERSION};
    CREATE TABLE captions (video TEXT, number INTEGER, caption TEXT NOT NULL,
                           PRIMARY KEY (video, number)) WITHOUT ROWID;
    CREATE TABLE counts (videos INTEGER, captions INTEGER);
"""


def caption_key(video_path: str) -> str:
    """Return the part of a video's path that is compared: its name without folders and extension.

    Spaces count as underscores; letter case counts, as it does in YouTube's ids. Only extensions
    of videos are removed, since a bare name may contain a dot.
    """
    name = video_path.replace("\\", "/").rpartition("/")[2].strip()
    dot = name.rfind(".")
    if dot > 0 and name[dot:].lower() in VIDEO_EXTENSIONS:
        name = name[:dot]
    if not name.isascii():
        name = unicodedata.normalize("NFC", name)
    return name.replace(" ", "_")


def candidate_keys(video_path: str) -> tuple[str, ...]:
    """Return the keys under which a video's captions may be, best first.

    ``0347ZoDXyP0_000095_000105.mp4`` has the captions of ``0347ZoDXyP0`` if it has none of its own.
    """
    key = caption_key(video_path)
    timed = TIMED.fullmatch(key)
    return (key, timed[1]) if timed else (key,)


def draw_caption(captions: Sequence[str], *, seed: int, epoch: int, index: int) -> str:
    """Draw one of a video's captions for an epoch, all equally likely.

    It depends only on the arguments, so not on workers or processes; ``index`` is the video's row.
    """
    if len(captions) == 1:
        return captions[0]
    rng = np.random.default_rng((seed % 2**64, epoch, index, DRAWS))
    return captions[int(rng.integers(len(captions)))]


@dataclass(frozen=True)
class CaptionMatch:
    """Which videos of a list have captions.

    Attributes:
        videos: rows of the list.
        unmatched: paths without captions, as listed.
        shared: paths that have the captions of a video listed before under another path.
        keys: names in the caption file that a path has.
    """

    videos: int
    unmatched: list[str]
    shared: list[str]
    keys: frozenset[str]

    @property
    def matched(self) -> int:
        """Number of videos that have captions."""
        return self.videos - len(self.unmatched)

    @property
    def rate(self) -> float:
        """Share of the videos that have captions, 0 to 1."""
        return self.matched / self.videos if self.videos else 0.0


class CaptionFile:
    """The captions of videos; ``len()`` is the number of videos that have any.

    An object can be pickled and can be used after a fork: each process opens the file for itself,
    at the first look-up.

    Args:
        path: a file that ``tools/prepare_captions.py`` wrote.

    Raises:
        DataError: the file is missing, is not a caption file, or is cut off. Every look-up also
            raises it if the file turns out to be damaged.
    """

    def __init__(self, path: str | Path) -> None:
        try:
            self.path = Path(local(path))
        except OSError as error:
            raise DataError(f"the caption file {describe_os_error(error)}") from error
        self._connection: sqlite3.Connection | None = None
        self._process = 0
        if not self.path.is_file():
            raise DataError(f"the caption file {path} does not exist; {self._advice()}")
        self._check()
        ((self._videos, self.count),) = self._rows("SELECT videos, captions FROM counts")

    def __len__(self) -> int:
        return self._videos

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_connection": None, "_process": 0}

    def get(self, video_path: str) -> list[str]:
        """Return a video's captions in the order of their file; an empty list if it has none."""
        for key in candidate_keys(video_path):
            query = "SELECT caption FROM captions WHERE video = ? ORDER BY number"
            if rows := self._rows(query, key):
                return [caption for (caption,) in rows]
        return []

    def names(self) -> Iterator[str]:
        """Yield the names of all videos, sorted; reads the whole file."""
        return (key for (key,) in self._rows("SELECT DISTINCT video FROM captions"))

    def match(self, paths: Iterable[str]) -> CaptionMatch:
        """Look up which of ``paths`` have captions, without reading them."""
        first: dict[str, str] = {}
        unmatched, shared, total = [], [], 0
        for path in paths:
            total += 1
            key = next((key for key in candidate_keys(path) if self._has(key)), None)
            if key is None:
                unmatched.append(path)
            elif first.setdefault(key, path) != path:
                shared.append(path)
        return CaptionMatch(total, unmatched, shared, frozenset(first))

    def _has(self, key: str) -> bool:
        return bool(self._rows("SELECT 1 FROM captions WHERE video = ? LIMIT 1", key))

    def _rows(self, query: str, *values: str) -> list[tuple]:
        try:
            return self._open().execute(query, values).fetchall()
        except UnicodeEncodeError:  # A path whose bytes are not text is in no caption file.
            return []
        except sqlite3.Error as error:
            raise DataError(
                f"cannot read the caption file {self.path}: {error}; {self._advice()}"
            ) from error

    def _open(self) -> sqlite3.Connection:
        # A connection must not cross a fork, where it would share its position in the file.
        if self._connection is None or self._process != os.getpid():
            address = f"{self.path.absolute().as_uri()}?mode=ro&immutable=1"
            self._connection = sqlite3.connect(address, uri=True, check_same_thread=False)
            self._process = os.getpid()
        return self._connection

    def _check(self) -> None:
        """Check the header: SQLite opens any database it is given."""
        try:
            with open_regular(self.path) as file:
                size = os.fstat(file.fileno()).st_size
        except OSError as error:
            raise DataError(
                f"cannot read the caption file {self.path}: {error.strerror}") from error
        try:
            application, version, page_size, pages = (
                self._open().execute(f"PRAGMA {name}").fetchone()[0]
                for name in ("application_id", "user_version", "page_size", "page_count"))
        except sqlite3.Error as error:
            if "malformed" in str(error):
                raise self._damage(size, "more") from error
            application = 0  # no database at all
        if application != APPLICATION:
            raise DataError(
                f"{self.path} is not a prepared caption file; prepare it: python "
                f"tools/prepare_captions.py --captions {shlex.quote(str(self.path))} "
                "--output captions.sqlite"
            )
        if version != VERSION:
            raise DataError(
                f"the caption file {self.path} has the format {version}, this version reads "
                f"{VERSION}; {self._advice()}"
            )
        if page_size * pages != size:
            raise self._damage(size, page_size * pages)

    def _damage(self, size: int, promised: int | str) -> DataError:
        return DataError(f"the caption file {self.path} is damaged: it has {size} bytes and should "
                         f"have {promised}; {self._advice()}")

    def _advice(self) -> str:
        return ("write it again: python tools/prepare_captions.py --captions CAPTIONS "
                f"--output {self.path}")


def write_captions(path: str | Path, captions: Mapping[str, Sequence[str]]) -> None:
    """Write each video's captions, by :func:`caption_key`; an old file is replaced at the end.

    Raises:
        DataError: it cannot be written.
    """
    rows = ((key, number, caption)
            for key in sorted(captions) for number, caption in enumerate(captions[key]))
    try:
        with replacing_file(path) as temporary:
            connection = sqlite3.connect(temporary)
            try:
                connection.executescript(_TABLES)
                connection.executemany("INSERT INTO captions VALUES (?, ?, ?)", rows)
                counts = (len(captions), sum(map(len, captions.values())))
                connection.execute("INSERT INTO counts VALUES (?, ?)", counts)
                connection.commit()
            finally:
                connection.close()
    except (OSError, sqlite3.Error) as error:
        raise DataError(f"cannot write the caption file {path}: {error}") from error
