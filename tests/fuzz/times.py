"""Seeded damage to what a video file says of its times: gaps, jumps, odd rates and durations."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from tests.fuzz.corruption import KINDS, Draws, Kinds


class Number(NamedTuple):
    """A number in a file: its place, its bytes and their order."""

    place: int
    width: int
    order: str


# Names of MP4 boxes, and where numbers that are times stand behind them: version and flags first.
BOXES = {
    b"mvhd": (12, 16), b"mdhd": (12, 16), b"tkhd": (20,), b"elst": (8, 12, 16),
    b"stts": (4, 8, 12, 16, 20, 24, 28), b"ctts": (4, 8, 12, 16, 20, 24), b"tfdt": (4, 8),
    b"trun": (8, 12, 16, 20), b"tfhd": (8, 12), b"trex": (12,),
}
CHUNKS = {b"avih": (4, 20), b"strh": (24, 28, 32, 36, 40)}
# Matroska: time scale, duration, frame duration; then times of clusters and of blocks.
ELEMENTS = re.compile(rb"(?:\x2a\xd7\xb1|\x44\x89|\x23\xe3\x83)([\x81-\x88])")
CLUSTERS = re.compile(rb"\x1f\x43\xb6\x75.{1,8}?\xe7([\x81-\x88])", re.DOTALL)
BLOCKS = re.compile(rb"\xa3[\x40-\xff].?\x81(?=..[\x00\x80])", re.DOTALL)
# Transport streams: a packet of video that begins with a time; FLV: tags of video.
PACKETS = re.compile(rb"\x00\x00\x01\xe0..[\x80-\x8f][\x80-\xff]\x05|"
                     rb"\x00\x00\x01\xe0..[\x80-\x8f][\xc0-\xff]\x0a", re.DOTALL)
TAGS = re.compile(rb"\x09...(?=....\x00\x00\x00[\x10-\x7f])", re.DOTALL)
DAY = 86_400


def find_times(data: bytes) -> list[Number]:
    """Return the numbers of a file that are times, as far as it is MP4, AVI, MKV, TS or FLV."""
    if data[:3] == b"FLV":
        return [Number(m.end(), 3, "big") for m in TAGS.finditer(data)]
    if data[:4] == b"RIFF":
        return list(_behind(data, CHUNKS, "little"))
    if data[:4] == b"\x1a\x45\xdf\xa3":
        sized = [m for kind in (ELEMENTS, CLUSTERS) for m in kind.finditer(data)]
        return [Number(m.end(), m[1][0] & 15, "big") for m in sized] + [
            Number(m.end(), 2, "big") for m in BLOCKS.finditer(data)]
    if data[:1] == b"\x47":
        return [Number(m.end() + 1, 4, "big") for m in PACKETS.finditer(data)]
    return list(_behind(data, BOXES, "big"))


def _behind(data: bytes, names: dict[bytes, tuple[int, ...]], order: str) -> Iterator[Number]:
    for name, places in names.items():
        for match in re.finditer(name, data):
            for place in places:
                yield Number(match.end() + place, 4, order)


def _times(data: bytes, _: bytes, rng: Draws) -> bytes:
    """Overwrite up to six times: with a gap of seconds to years, a shift by some bits, or noise."""
    numbers = find_times(data)
    if not numbers:
        return KINDS["header_bits"](data, b"", rng)
    damaged = bytearray(data)
    for _ in range(int(rng.integers(1, 7))):
        place, width, order = numbers[rng.integers(len(numbers))]
        old = int.from_bytes(damaged[place : place + width], order)
        way = rng.integers(5)
        if way == 0:
            new = old + int(DAY * 10 ** rng.uniform(-3, 6))
        elif way == 1:
            new = old << int(rng.integers(1, 25))
        elif way == 2:
            new = old - int(10 ** rng.uniform(0, 6))
        elif way == 3:
            new = int(rng.integers(0, 4))
        else:
            new = int.from_bytes(rng.bytes(width), order)
        damaged[place : place + width] = (new % 256**width).to_bytes(width, order)[
            : max(len(data) - place, 0)]
    return bytes(damaged)


# A third of the damage is to times, which decide how many windows a timeline has.
CAMPAIGN: Kinds = {**KINDS, **{f"times{number}": _times for number in range(1, 7)}}
