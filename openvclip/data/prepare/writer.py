"""Writing a preparation: all of it or nothing."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from openvclip.data.prepare.plan import Preparation
from openvclip.utils.errors import DataError
from openvclip.utils.files import read_bytes, replacing

MISSING, EXTRA = "missing_files.txt", "extra_files.txt"


def write_preparation(
    preparation: Preparation, *, overwrite: bool = False, strict: bool = False
) -> tuple[int, int]:
    """Write lists, label maps and the lists of missing and extra files.

    Existing files with the same content are left alone.

    Args:
        preparation: what to write.
        overwrite: replace lists that differ.
        strict: treat missing files, and files that cannot be placed, as an error.

    Returns:
        How many files were written or removed, and how many were already up to date.

    Raises:
        DataError: different lists exist, a file cannot be written, or ``strict`` finds problems;
            nothing is written then.
    """
    if strict:
        _require_complete(preparation)
    changed = [path for path, text in preparation.files.items() if _differs(path, text)]
    in_the_way = [path for path in changed if path.exists()]
    if in_the_way and not overwrite:
        names = ", ".join(str(path) for path in in_the_way[:3])
        rest = f" and {len(in_the_way) - 3} more" if len(in_the_way) > 3 else ""
        raise DataError(
            f"{names}{rest} already exist with other content; nothing was written. "
            "Give --overwrite to replace, or another --root or --output"
        )
    files = preparation.files | _reports(preparation)
    changed = [path for path, text in files.items() if _differs(path, text)]
    _write_all({path: files[path] for path in changed})
    unchanged = sum(text is not None and path not in changed for path, text in files.items())
    return len(changed), unchanged


def _require_complete(preparation: Preparation) -> None:
    faults = [
        f"{len(files):,} {what}, the first {files[0]}"
        for files, what in (
            (preparation.missing, "annotated files are not on disk"),
            (preparation.unplaced, "cannot be placed"),
        )
        if files
    ]
    if faults:
        raise DataError(f"--strict: {'; '.join(faults)}; nothing was written")


def _reports(preparation: Preparation) -> dict[Path, str | None]:
    if preparation.folder is None:
        return {}
    reports = {MISSING: preparation.missing, EXTRA: preparation.extra}
    return {
        preparation.folder / name: "".join(f"{line}\n" for line in lines) or None
        for name, lines in reports.items()
    }


def _differs(path: Path, text: str | None) -> bool:
    if text is None:
        return path.exists()
    try:
        return read_bytes(path) != text.encode("utf-8")
    except FileNotFoundError:
        return True
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error


def _write_all(files: dict[Path, str | None]) -> None:
    try:
        with ExitStack() as stack:  # No file is replaced before all are complete.
            for path, text in files.items():
                if text is not None:
                    stack.enter_context(replacing(path)).write(text)
        for path, text in files.items():
            if text is None:
                path.unlink(missing_ok=True)
    except OSError as error:
        where = error.filename or "the lists"
        raise DataError(f"cannot write {where}: {error.strerror}") from error
