"""Seeded damage to video files: each kind is a function of the bytes and a generator."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

Draws = np.random.Generator
Kinds = dict[str, Callable[[bytes, bytes, Draws], bytes]]
# Structures whose size stands beside their name: before it in MP4, after it in AVI and Matroska.
BOXES = re.compile(
    rb"ftyp|moov|mvhd|trak|tkhd|edts|elst|mdia|mdhd|hdlr|minf|stbl|stsd|avc1|avcC|hvcC|mp4v|esds"
    rb"|stts|ctts|stss|stsc|stsz|stco|co64|mdat|moof|traf|tfhd|tfdt|trun|mvex|trex|sidx"
)
CHUNKS = re.compile(rb"RIFF|LIST|avih|strh|strf|indx|idx1|JUNK|00dc|00db|01wb")
ELEMENTS = re.compile(
    rb"\x1a\x45\xdf\xa3|\x18\x53\x80\x67|\x15\x49\xa9\x66|\x16\x54\xae\x6b|\x1f\x43\xb6\x75"
    rb"|\x1c\x53\xbb\x6b|\x11\x4d\x9b\x74|\x2a\xd7\xb1|\x44\x89|\x23\xe3\x83|\x63\xa2|\x4d\xbb"
)
# Numbers that break programs, as they stand in a header of four bytes.
EXTREMES = (0, 1, 2, 0xFF, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFF0, 0xFFFFFFFF)
HEAD = 4096


@dataclass(frozen=True)
class Source:
    """A video to damage: its name and bytes."""

    name: str
    data: bytes


@dataclass(frozen=True)
class Case:
    """One damaged video.

    Attributes:
        seed: of all draws; gives the same case again.
        kind: name of the damage.
        source: name of the file that was damaged.
        data: what is left of it.
        draw: place of a training clip, in [0, 1).
    """

    seed: int
    kind: str
    source: str
    data: bytes
    draw: float

    @property
    def file_name(self) -> str:
        return f"{self.seed:06d}-{self.kind}-{self.source}"

    def renamed(self, kind: str) -> Case:
        """Return the case under another name of its kind."""
        return replace(self, kind=kind)


def make_case(seed: int, sources: list[Source], kinds: Kinds | None = None) -> Case:
    """Return the case of a seed: the source, the kind and the damage are drawn from it.

    Args:
        seed: of all draws.
        sources: what there is to damage.
        kinds: damages, ``KINDS`` unless given; one more changes what seeds mean.
    """
    kinds = kinds or KINDS
    rng = np.random.default_rng(seed)
    source = sources[rng.integers(len(sources))]
    other = sources[rng.integers(len(sources))]
    kind = list(kinds)[rng.integers(len(kinds))]
    data = kinds[kind](source.data, other.data, rng)
    return Case(seed, kind, source.name, data, float(rng.random()))


def read_sources(paths: list[Path]) -> list[Source]:
    """Read files to damage, those of folders among them, sorted by name."""
    files = [p for path in paths for p in (path.iterdir() if path.is_dir() else [path])]
    return [Source(p.name, p.read_bytes()) for p in sorted(files) if p.stat().st_size > 64]


def _flip(data: bytes, places: np.ndarray, rng: Draws) -> bytes:
    array = np.frombuffer(data, np.uint8).copy()
    array[places] ^= np.uint8(1) << rng.integers(0, 8, len(places), dtype=np.uint8)
    return array.tobytes()


def _few_bits(data: bytes, _: bytes, rng: Draws) -> bytes:
    return _flip(data, rng.integers(0, len(data), rng.integers(1, 17)), rng)


def _many_bits(data: bytes, _: bytes, rng: Draws) -> bytes:
    share = 10 ** rng.uniform(-3.5, -1)
    return _flip(data, rng.integers(0, len(data), int(share * len(data)) + 1), rng)


def _header_bits(data: bytes, _: bytes, rng: Draws) -> bytes:
    """Headers lie at a file's beginning or end."""
    places = rng.integers(0, min(HEAD, len(data)), rng.integers(1, 33))
    return _flip(data, places if rng.random() < 0.5 else len(data) - 1 - places, rng)


def _run(data: bytes, rng: Draws) -> slice:
    length = int(len(data) ** rng.uniform(0.1, 0.9))
    start = int(rng.integers(0, len(data)))
    return slice(start, min(start + length, len(data)))


def _overwrite(data: bytes, _: bytes, rng: Draws) -> bytes:
    run = _run(data, rng)
    return data[: run.start] + rng.bytes(run.stop - run.start) + data[run.stop :]


def _zeros(data: bytes, _: bytes, rng: Draws) -> bytes:
    run = _run(data, rng)
    return data[: run.start] + bytes(run.stop - run.start) + data[run.stop :]


def _truncate(data: bytes, _: bytes, rng: Draws) -> bytes:
    return data[: rng.integers(0, len(data))]


def _remove(data: bytes, _: bytes, rng: Draws) -> bytes:
    run = _run(data, rng)
    return data[: run.start] + data[run.stop :]


def _duplicate(data: bytes, _: bytes, rng: Draws) -> bytes:
    run = _run(data, rng)
    again = data[run.start : run.stop] * int(rng.integers(1, 4))
    return data[: run.stop] + again + data[run.stop :]


def _swap(data: bytes, _: bytes, rng: Draws) -> bytes:
    """Exchange two blocks of a file."""
    a, b, c, d = sorted(rng.integers(0, len(data) + 1, 4).tolist())
    return data[:a] + data[c:d] + data[b:c] + data[a:b] + data[d:]


def _other_header(data: bytes, other: bytes, rng: Draws) -> bytes:
    """Put the beginning, or the end, of another file in the place of this one's."""
    cut = int(rng.integers(1, min(HEAD, len(data), len(other))))
    return other[:cut] + data[cut:] if rng.random() < 0.7 else data[:-cut] + other[-cut:]


def _named(data: bytes) -> list[tuple[int, int, str]]:
    """Return (place, bytes of the name, byte order of the size) of what has a size field."""
    if data[4:8] in (b"ftyp", b"moov", b"mdat", b"free", b"wide"):
        return [(m.start() - 4, 4, "big") for m in BOXES.finditer(data) if m.start() >= 4]
    if data[:4] == b"RIFF":
        return [(m.start(), 4, "little") for m in CHUNKS.finditer(data)]
    return [(m.start(), len(m[0]), "big") for m in ELEMENTS.finditer(data)]


def _number(rng: Draws) -> int:
    if rng.random() < 0.6:
        return EXTREMES[rng.integers(len(EXTREMES))]
    return int(2 ** rng.uniform(0, 32))


def _sizes(data: bytes, _: bytes, rng: Draws) -> bytes:
    """Overwrite the size of boxes, chunks or elements."""
    return _write_numbers(data, rng, lambda place, length, order: (
        place if order == "big" and length == 4 and data[place + 4 : place + 8].isalnum()
        else place + length
    ))


def _fields(data: bytes, _: bytes, rng: Draws) -> bytes:
    """Overwrite numbers inside boxes, chunks or elements: counts, times, frame sizes."""
    return _write_numbers(
        data, rng, lambda place, length, order: place + 8 + 2 * int(rng.integers(0, 40))
    )


def _write_numbers(
    data: bytes, rng: Draws, locate: Callable[[int, int, str], int]
) -> bytes:
    named = _named(data)
    if not named:
        return _header_bits(data, b"", rng)
    damaged = bytearray(data)
    for _ in range(int(rng.integers(1, 4))):
        place, length, order = named[rng.integers(len(named))]
        at = locate(place, length, order)
        width = int(rng.choice([1, 2, 4, 4, 8]))
        value = _number(rng) % 256**width
        # Within the file: the length stays.
        damaged[at : at + width] = value.to_bytes(width, order)[: max(len(data) - at, 0)]
    return bytes(damaged)


KINDS: Kinds = {
    "few_bits": _few_bits,
    "many_bits": _many_bits,
    "header_bits": _header_bits,
    "overwrite": _overwrite,
    "zeros": _zeros,
    "truncate": _truncate,
    "remove": _remove,
    "duplicate": _duplicate,
    "swap": _swap,
    "other_header": _other_header,
    "sizes": _sizes,
    "fields": _fields,
}
