"""Checking the videos of lists by decoding them all, before a long run finds the bad ones."""

from __future__ import annotations

import filecmp
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Collection, Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from openvclip.data.check.pool import Outcome, run_isolated
from openvclip.data.check.table import STATUSES, Record, VideoTable
from openvclip.data.check.video import DAMAGED, OK, check_video
from openvclip.utils.cores import count_cores
from openvclip.utils.errors import ConfigError, DataError
from openvclip.utils.files import (
    advise_on_space,
    check_lines,
    explain_refusal,
    read_bytes,
    read_text,
    replacing,
)
from openvclip.utils.logging import Progress, format_seconds, get_logger

# Bad files that the log names.
NAMED = 20
# Lists that runs read from the folder DATA.PATH_TO_DATA_DIR, and the files next to them.
RUN_LISTS = ("train.csv", "val.csv", "test.csv", "test_openset.csv")
BESIDE = ("draw.json", "*-index2cls.json")

logger = get_logger(__name__)


@dataclass(frozen=True)
class RawList:
    """A list with its rows as in the file; row i names the video ``paths[i]``."""

    source: Path
    rows: list[str]
    paths: list[str]


def read_raw_list(source: str | Path, separator: str) -> RawList:
    """Read a list's rows without looking at their labels; empty lines are skipped.

    The last ``separator`` in a row counts, and a row without one is all path.

    Raises:
        DataError: the file cannot be read or has no row.
    """
    try:
        text = read_bytes(source).decode("utf-8-sig")
        check_lines(source, text)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the list {source}: {error}") from error
    if "\0" in text:
        raise DataError(f"the list {source} has a zero byte, which no path has; is it a list?")
    rows = [row for row in text.split("\n") if row.strip()]
    if not rows:
        raise DataError(f"the list {source} is empty; expected rows like 'video.mp4{separator}0'")
    stripped = (row.strip() for row in rows)
    paths = [(row.rpartition(separator)[0] or row).strip() for row in stripped]
    return RawList(Path(source), rows, paths)


def check_lists(
    lists: Sequence[str | Path],
    output: str | Path,
    *,
    prefix: str = "",
    separator: str = ",",
    workers: int | None = None,
    timeout: float = 300.0,
    keep_damaged: bool = False,
    recheck: Collection[str] | None = None,
    check: Callable[[str], dict[str, Any]] = check_video,
) -> dict[str, Any]:
    """Decode every video that the lists name, once each, and write the results.

    Writes ``videos.csv``, the lists without the rows of bad files to ``clean/``, and
    ``summary.json``. A folder of cleaned lists can be a run's DATA.PATH_TO_DATA_DIR: label maps,
    ``draw.json`` and lists that equal one of those given, as ``test.csv`` often does ``val.csv``,
    are copied too; other lists that are missing there are named. Files whose path, size and
    modification time are those of an earlier run into the same folder, finished or not, are not
    decoded again.

    Args:
        lists: files of ``path<separator>label`` rows.
        prefix: folder that the listed paths are relative to.
        separator: text between path and label.
        workers: processes that decode; one per core if None.
        timeout: seconds after which a file is given up.
        keep_damaged: leave damaged files in the cleaned lists.
        recheck: decode files again if earlier runs gave them these statuses; all files, if empty.
        check: what a process does with a file; see ``check_video``.

    Returns:
        The content of ``summary.json``.

    Raises:
        ConfigError: an option has an impossible value.
        DataError: a list cannot be read, none of the videos exists, or ``output`` cannot be
            written to.
    """
    started = time.monotonic()
    workers = count_cores() if workers is None else workers
    recheck = () if recheck is None else recheck or STATUSES
    _check_options(lists, prefix, separator, workers, timeout, recheck)
    raw = [read_raw_list(source, separator) for source in dict.fromkeys(map(Path, lists))]
    targets = _clean_paths([item.source for item in raw], Path(output) / "clean")
    records = _look_up(dict.fromkeys(path for item in raw for path in item.paths), prefix)
    _make_folder(output)
    table = VideoTable(output)
    function = partial(_check_listed, check, prefix)
    run = partial(run_isolated, function, workers=workers, timeout=timeout)
    decoded = _complete_records(records, table, recheck, run)
    kept = {OK, DAMAGED} if keep_damaged else {OK}
    cleaned = [_write_clean(*pair, records, kept) for pair in zip(raw, targets, strict=True)]
    _complete_folders(raw, targets)
    seconds = round(time.monotonic() - started, 1)
    summary = _summarise(records.values(), decoded=decoded, seconds=seconds, lists=cleaned)
    with replacing(Path(output) / "summary.json") as file:
        file.write(json.dumps(summary, indent=1, ensure_ascii=False) + "\n")
    _log_summary(summary, records.values(), table.finished)
    return summary


def _complete_records(
    records: dict[str, Record], table: VideoTable, recheck: Collection[str],
    run: Callable[[Sequence[str]], Generator[Outcome, None, None]],
) -> int:
    """Fill in each video's results, from now or earlier; return how many were decoded now."""
    reused, others = {}, []  # The latter are of files that are not listed or are missing now.
    for path, known in table.load().items():
        present = records.get(path)
        if present is None or present.size_bytes is None:
            others.append(known)
        elif (not present.status and known.status not in recheck
              and (present.size_bytes, present.mtime_ns) == (known.size_bytes, known.mtime_ns)):
            reused[path] = known
    records.update(reused)
    todo = [path for path, record in records.items() if not record.status]
    logger.info("%d videos: %d known from before, %d to decode",
                len(records), len(reused), len(todo))
    if todo:
        progress = Progress(len(todo), "decoding", "videos", period=10.0)
        bad = sum(record.status not in ("", OK) for record in records.values())
        # However this ends, the processes end with it.
        with table.appending([*others, *reused.values()]) as append, closing(run(todo)) as outcomes:
            for outcome in outcomes:
                result = outcome.value or {"status": outcome.failure, "reason": outcome.reason}
                records[outcome.item] = record = records[outcome.item].with_result(**result)
                append(record)
                bad += record.status != OK
                progress.update(note=f"{bad} bad so far")
    table.finish(records.values(), others)
    return len(todo)


def _check_options(
    lists: Sequence[str | Path], prefix: str, separator: str, workers: int, timeout: float,
    recheck: Collection[str],
) -> None:
    if not lists:
        raise ConfigError("--list names no list; give one or more csv files")
    if not separator:
        raise ConfigError("--separator is empty; give the text between path and label")
    if workers < 1:
        raise ConfigError(f"--workers is {workers}; it must be at least 1")
    if not timeout > 0:
        raise ConfigError(f"--timeout is {timeout}; it must be more than 0 seconds")
    unknown = [status for status in recheck if status not in STATUSES]
    if unknown:
        raise ConfigError(f"--recheck names {unknown[0]!r}; the statuses are {', '.join(STATUSES)}")
    if prefix and not os.path.isdir(prefix):
        raise ConfigError(f"--prefix {prefix!r} is not a folder; give the one that the lists' "
                          "paths start from")


def _make_folder(output: str | Path) -> None:
    try:
        Path(output).mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=output):  # before hours of work
            pass
    except OSError as error:
        raise DataError(f"cannot write to --output {output}: {explain_refusal(error, output)}; "
                        f"{advise_on_space(error)}give another folder") from error


def _clean_paths(sources: Sequence[Path], folder: Path) -> list[Path]:
    """Return where each cleaned list goes: its path in the folder that all lists share."""
    whole = [os.path.abspath(source) for source in sources]
    shared = os.path.commonpath([os.path.dirname(path) for path in whole])
    targets = [folder / os.path.relpath(path, shared) for path in whole]
    for target in targets:
        if os.path.abspath(target) in whole:
            raise ConfigError(f"the cleaned list would replace the list {target} itself; choose "
                              "another --output")
    return targets


def _look_up(paths: Collection[str], prefix: str) -> dict[str, Record]:
    """Return a record for each path: a finished one if there is nothing to decode."""
    progress = Progress(len(paths), "looking files up", "files")
    records = {}
    for path in paths:
        records[path] = Record.of_file(path, prefix)
        progress.update()
    if all(record.size_bytes is None for record in records.values()):
        first = os.path.join(prefix, next(iter(records)))
        raise DataError(f"none of the {len(records)} listed videos exists, the first being "
                        f"{first!r}; check --prefix and --separator, and that the disk is mounted")
    return records


def _check_listed(check: Callable[[str], dict[str, Any]], prefix: str, path: str) -> dict[str, Any]:
    return check(os.path.join(prefix, path))


def _write_clean(
    raw: RawList, target: Path, records: dict[str, Record], kept: Collection[str]
) -> dict[str, Any]:
    """Write a list's rows whose videos are good; return their counts."""
    rows = [row for row, path in zip(raw.rows, raw.paths, strict=True)
            if records[path].status in kept]
    with replacing(target) as file:
        file.writelines(f"{row}\n" for row in rows)
    return {"source": str(raw.source), "rows": len(raw.rows), "clean": str(target),
            "kept": len(rows)}


def _complete_folders(raw: Sequence[RawList], targets: Sequence[Path]) -> None:
    """Copy what a run reads besides its lists into the folders of cleaned lists."""
    given = {os.path.abspath(item.source) for item in raw}
    folders = dict(zip((target.parent for target in targets),
                       (item.source.parent for item in raw), strict=True))
    for folder, source in folders.items():
        cleaned = {item.source: target for item, target in zip(raw, targets, strict=True)
                   if target.parent == folder}
        for name in RUN_LISTS:
            path = source / name
            if not path.is_file() or os.path.abspath(path) in given:
                continue
            same = next((target for other, target in cleaned.items()
                         if filecmp.cmp(path, other, shallow=False)), None)
            if same is not None:
                _copy_file(same, folder / name)
            else:
                logger.warning("%s was not checked: %s has no %s for a run to read; give it to "
                               "--list as well", path, folder, name)
        for pattern in BESIDE:
            for path in sorted(filter(Path.is_file, source.glob(pattern))):
                _copy_file(path, folder / path.name)


def _copy_file(source: Path, target: Path) -> None:
    """Copy a text file completely or not at all. A file that is not text is named."""
    try:
        text = read_text(source)
    except (OSError, UnicodeDecodeError) as error:
        logger.warning("%s was not copied to the cleaned lists: %s", source, error)
        return
    with replacing(target) as file:
        file.write(text)


def _summarise(records: Collection[Record], **run: Any) -> dict[str, Any]:
    statuses = Counter(record.status for record in records)
    contents = [record.content for record in records]
    codecs = Counter(content["codec"] for content in contents if content.get("codec"))
    return {
        "videos": len(records),
        "status": {status: statuses[status] for status in STATUSES},
        "codec": dict(codecs.most_common()),
        "frames": sum(content.get("frames") or 0 for content in contents),
        "hours": round(sum(content.get("duration") or 0 for content in contents) / 3600, 3),
        "bytes": sum(record.size_bytes or 0 for record in records),
        **run,
    }


def _log_summary(summary: dict[str, Any], records: Iterable[Record], table: Path) -> None:
    counts = ", ".join(f"{name} {count}" for name, count in summary["status"].items() if count)
    codecs = ", ".join(f"{name} {count}" for name, count in summary["codec"].items()) or "none"
    logger.info(
        "%d videos: %s; codecs: %s; %d frames, %.1f hours, %.2f GB; decoded %d in %s",
        summary["videos"], counts, codecs, summary["frames"], summary["hours"],
        summary["bytes"] / 1e9, summary["decoded"], format_seconds(summary["seconds"]),
    )
    bad = [record for record in records if record.status != OK]
    for record in bad[:NAMED]:
        logger.warning("%s: %s (%s)", record.path, record.status, record.reason)
    if len(bad) > NAMED:
        logger.warning("... and %d more; %s has them all", len(bad) - NAMED, table)
    for item in summary["lists"]:
        logger.info("%s: %d of %d rows of %s", item["clean"], item["kept"], item["rows"],
                    item["source"])
