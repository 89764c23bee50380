"""Training checkpoints: written completely or not at all, checked and read without unpickling code.

A file is torch's zip file. Its comment, at the file's end, holds a checksum of all that is before:
it comes and goes with the file, and whatever reads zip files or calls ``torch.load`` skips it. The
checksum is XXH3 of 128 bits: it finds damage, not forgery, about as fast as memory is read. The
CRC-32 that the zip file has of each member does not cover headers, padding and the directory.
"""

from __future__ import annotations

import hashlib
import io
import os
import random
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import torch
import xxhash

from openvclip.utils.errors import CheckpointError, first_line
from openvclip.utils.files import (
    UnfitFileError,
    check_replaceable,
    create_new,
    open_regular,
    temporary_name,
)
from openvclip.utils.logging import get_logger
from openvclip.utils.paths import local_weights
from openvclip.utils.torch_files import load_torch

FOLDER = "checkpoints"
PATTERN = re.compile(r"^checkpoint_epoch_(\d{5})\.pyth$")
# Within an epoch. The name shares nothing with the above, so that such files are not averaged.
PARTIAL = re.compile(r"^partial_epoch_(\d{5})_iter_(\d{7})\.pyth$")
LEFTOVER = re.compile(r"^\.(checkpoint|partial|nonfinite)_epoch_.*\.tmp$")

MARK = b"openvclip-xxh3-128:"
# Checksums that files may carry, newest first.
CHECKSUMS: dict[bytes, Any] = {MARK: xxhash.xxh3_128, b"openvclip-sha256:": hashlib.sha256}
# A zip file ends in a record of 22 bytes, the last two of which are the size of the comment.
ZIP_START, ZIP_END, ZIP_END_SIZE = b"PK\x03\x04", b"PK\x05\x06", 22

logger = get_logger(__name__)


class _HashingFile:
    """The stream for ``torch.save``: passes bytes on and hashes them."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.flush = file, file.flush
        self.hash = CHECKSUMS[MARK]()

    def write(self, data: bytes) -> int:
        self.hash.update(data)
        return self._file.write(data)


def check_target(path: str | Path) -> None:
    """Raise a CheckpointError if no file may take that name: it is a device, a pipe, a folder."""
    try:
        check_replaceable(path)
    except UnfitFileError as error:
        raise CheckpointError(f"cannot write {error}; give another name") from error


def save_file(path: str | Path, content: Any) -> Path:
    """Write ``content`` with ``torch.save`` under a temporary name, then rename it.

    A reader, or a run killed at any moment, sees the old file or the new one, never a part. The
    file carries its checksum.

    Raises:
        CheckpointError: the file cannot be written (a full disk, no permission); an older file with
            that name then still exists.
    """
    path = Path(path)
    temporary = temporary_name(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        check_target(path)
        with create_new(temporary) as file:
            hashing = _HashingFile(file)
            torch.save(content, cast(BinaryIO, hashing))  # it asks for write and flush only
            file.seek(-2, os.SEEK_END)
            file.write(_comment(MARK, hashing.hash))
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        temporary.unlink(missing_ok=True)
        raise CheckpointError(
            f"cannot write {path}: {first_line(error)}; free space or choose another "
            "OUTPUT_DIR; the previous file is still there"
        ) from error
    return path


def verify_file(path: str | Path) -> bool:
    """Compare a file with the checksum that it carries; False: it carries none, nor is checked.

    Raises:
        CheckpointError: the file is not as it was written, or its end is missing.
    """
    path = local_weights(path)
    try:
        with open_regular(path) as file:
            problem = _find_damage(file)
    except OSError as error:
        problem = str(error)
    if problem:
        raise CheckpointError(
            f"checkpoint {path} ({path.stat().st_size if path.exists() else 0} bytes) is damaged: "
            f"{problem}; delete it or give another"
        )
    return problem is not None


def _comment(mark: bytes, checksum: Any) -> bytes:
    """The end of a file: the size of the zip file's comment, and the comment."""
    text = mark + checksum.hexdigest().encode()
    return len(text).to_bytes(2, "little") + text


def _find_damage(file: io.BufferedReader) -> str | None:
    """Return what is wrong with a file: "" for nothing, None if it carries no checksum."""
    size = file.seek(0, os.SEEK_END)
    for mark, make in CHECKSUMS.items():
        start = file.seek(max(size - len(_comment(mark, make())), 0))
        tail = file.read()
        if tail[2:].startswith(mark):
            intact = tail == _comment(mark, _hash_start(file, start, make()))
            return "" if intact else "its bytes do not match the checksum that it carries"
    file.seek(0)
    end = tail[-ZIP_END_SIZE:]
    whole = end.startswith(ZIP_END) and end.endswith(b"\0\0")
    if file.read(len(ZIP_START)) != ZIP_START or whole:
        return None
    return "its end is missing or damaged"


def _hash_start(file: io.BufferedReader, count: int, checksum: Any) -> Any:
    """Hash the first ``count`` bytes, and the comment's size as torch writes it: 0."""
    file.seek(0)
    buffer = memoryview(bytearray(1 << 20))
    while count and (got := file.readinto(buffer[:min(count, len(buffer))])):
        checksum.update(buffer[:got])
        count -= got
    checksum.update(b"\0\0")
    return checksum


def load_file(path: str | Path, *, verify: bool = True) -> dict:
    """Read a file from :func:`save_file` onto the CPU, tensors memory-mapped.

    Files of other programs, which carry no checksum, are also read, in either format of torch.

    Args:
        path: the file, or its address (:mod:`openvclip.utils.paths`).
        verify: compare it with its checksum.

    Raises:
        CheckpointError: it is missing, damaged, or holds something other than tensors and plain
            values.
    """
    path = local_weights(path)
    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint {path}; check the path")
    if verify:
        verify_file(path)
    try:
        content = load_torch(path)
    except Exception as error:  # torch raises many kinds for damaged files
        raise CheckpointError(
            f"cannot read checkpoint {path} ({path.stat().st_size} bytes): {first_line(error)}; "
            "it is damaged or not a checkpoint: delete it or give another"
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not a checkpoint")
    return content


def read_content(path: str | Path) -> dict[str, Any]:
    """Read what a file of ours has besides weights, unverified; {} for other or damaged files.

    Loading the weights of a damaged one says better what is wrong.
    """
    if Path(path).suffix == ".safetensors":
        return {}
    try:
        return load_file(path, verify=False)
    except CheckpointError:
        return {}


def checkpoint_path(output_dir: str | Path, number: int) -> Path:
    """Path of the checkpoint after ``number`` epochs (its file number is epoch + 1)."""
    return Path(output_dir) / FOLDER / f"checkpoint_epoch_{number:05d}.pyth"


def partial_path(output_dir: str | Path, number: int, iteration: int) -> Path:
    """Path of the state after ``iteration`` iterations of epoch ``number`` (counted from 1)."""
    return Path(output_dir) / FOLDER / f"partial_epoch_{number:05d}_iter_{iteration:07d}.pyth"


def match_files(folder: str | Path, pattern: re.Pattern) -> list[tuple[Path, re.Match]]:
    """Files in ``folder``, in order of name, with how their names match ``pattern``."""
    names = sorted(os.listdir(folder)) if Path(folder).is_dir() else []
    return [(Path(folder) / name, match) for name in names if (match := pattern.match(name))]


def list_checkpoints(folder: str | Path) -> dict[int, Path]:
    """Checkpoints in ``folder`` by number, in ascending order; none from within an epoch."""
    return {int(match[1]): path for path, match in match_files(folder, PATTERN)}


def list_partials(folder: str | Path) -> dict[tuple[int, int], Path]:
    """Files from within an epoch, by (whole epochs, iterations of the next), in ascending order."""
    return {(int(match[1]) - 1, int(match[2])): path
            for path, match in match_files(folder, PARTIAL)}


def load_last_checkpoint(output_dir: str | Path) -> tuple[Path, dict] | None:
    """Read the newest usable checkpoint of a run, or return None if it has none.

    A damaged one, or one from another moment than its name says, is reported, and the one
    before it is used.
    """
    folder = Path(output_dir) / FOLDER
    paths = {(number, 0): path for number, path in list_checkpoints(folder).items()}
    paths.update(list_partials(folder))
    for position, path in sorted(paths.items(), reverse=True):
        try:
            content = load_file(path)
            _check_position(content, position, path)
            return path, content
        except CheckpointError as error:
            logger.warning("%s; trying the checkpoint before it", error)
    if paths:
        logger.warning("none of the %d checkpoints in %s can be used", len(paths), folder)
    return None


def _check_position(content: dict, position: tuple[int, int], path: Path) -> None:
    """Find files that were swapped or renamed."""
    epoch, iteration = content.get("epoch"), content.get("iteration", 0)
    if isinstance(epoch, int) and (epoch + 1, iteration) != position:
        raise CheckpointError(
            f"{path} holds the state after {epoch + 1} epochs and {iteration} iterations, not what "
            "its name says: it was renamed or swapped; give it its name back"
        )


@dataclass(frozen=True)
class Keep:
    """Which epoch checkpoints to keep when a newer one has been written.

    Attributes:
        last: how many of the newest; 0 keeps all.
        every: also those whose number is a multiple of this; 0: none.
        first: also those from this number on, for averaging, ...
        end: ... to this number, included.
    """

    last: int = 0
    every: int = 0
    first: int = 0
    end: int = 0

    def drop(self, numbers: list[int], newest: int) -> list[int]:
        """Return which ``numbers`` to delete once ``newest`` exists; never that or a later one."""
        if self.last == 0:
            return []
        recent = sorted(n for n in numbers if n <= newest)[-self.last:]
        return [n for n in numbers if n < newest and n not in recent
                and not (self.every and n % self.every == 0)
                and not self.first <= n <= self.end]


def remove_outdated(output_dir: str | Path, position: tuple[int, int], keep: Keep) -> None:
    """Delete what is not needed once the state at ``position`` (epochs, iterations) is written."""
    folder = Path(output_dir) / FOLDER
    paths = [path for before, path in list_partials(folder).items() if before < position]
    if position[1] == 0:
        epochs = list_checkpoints(folder)
        paths += [epochs[number] for number in keep.drop(list(epochs), position[0])]
    for path in paths:
        path.unlink(missing_ok=True)


def remove_leftovers(output_dir: str | Path) -> None:
    """Delete the unfinished files of runs that were killed while writing."""
    for path, _ in match_files(Path(output_dir) / FOLDER, LEFTOVER):
        path.unlink(missing_ok=True)


def get_random_state() -> dict[str, Any]:
    """State of Python's, NumPy's and torch's global generators, as plain values and tensors."""
    version, internal, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    state: dict[str, Any] = {
        "python": [version, list(internal), gauss],
        "numpy": [name, torch.from_numpy(np.asarray(keys, np.int64)), position, has_gauss,
                  cached],
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_random_state(state: dict[str, Any]) -> None:
    """Restore what :func:`get_random_state` returned."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"].clone())
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].clone())
