"""The tables of a set of results: zero-shot, next to published numbers, and the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from openvclip.data.lists.protocols import find_sources
from openvclip.report.checks import SetupCheck
from openvclip.report.summary.columns import COLUMN_OF, Column, select_columns
from openvclip.report.summary.notes import Note, collect_notes
from openvclip.report.summary.published import Published, select_published
from openvclip.report.summary.retrieval import RetrievalRow, group_retrieval, is_retrieval
from openvclip.report.summary.rows import ModelRow, group_rows, list_results
from openvclip.report.summary.runs import BACKBONES, RESULTS, find_runs
from openvclip.report.summary.sections import Section, group_sections
from openvclip.report.summary.sweeps import Sweeps, collect_sweeps
from openvclip.utils.errors import DataError


@dataclass(frozen=True)
class Summary:
    """The zero-shot table and the others."""

    columns: list[Column]  # of the zero-shot table, in order
    rows: list[ModelRow]  # this project's rows of it
    published: list[Published]  # the papers' rows, of the backbones that there are results for
    notes: list[Note]  # what the reader of the tables must know
    sweeps: Sweeps  # what was tested at several patching ratios
    sections: list[Section]  # few-shot, base-to-novel, supervised and own lists' tables
    retrieval: list[RetrievalRow]  # the lines of the retrieval table

    @property
    def zero_shot(self) -> bool:
        """Whether to show the zero-shot table: not where all results are in other tables."""
        return bool(self.rows) or not (self.sections or self.retrieval)


def summarize(
    folders: Sequence[str | Path],
    *,
    root: str | Path,
    protocols: Sequence[str] | None = None,
    trained: Sequence[str] | None = None,
) -> Summary:
    """Gather the tests under ``folders`` into the tables.

    Args:
        folders: where tests wrote their results.
        root: folder with ``label_db`` and ``zs_label_db``; results are compared with their maps.
        protocols: what to show, see :func:`openvclip.report.summary.columns.select_columns`.
        trained: see :func:`openvclip.report.summary.sweeps.collect_sweeps`.

    Raises:
        DataError: a folder is missing, or there are no results at all.
        ConfigError: ``protocols`` or ``trained`` has an unknown name.
    """
    select_columns(protocols, ())
    runs, problems = find_runs(folders)
    if not runs:
        bad = "".join(f"; {p.folder}: {p.what}" for p in problems[:3])
        where = ", ".join(str(folder) for folder in folders)
        raise DataError(f"no {RESULTS} of a test under {where}; run script/testing first{bad}")
    retrieval = group_retrieval(list_results([run for run in runs if is_retrieval(run)]))
    runs = [run for run in runs if not is_retrieval(run)]
    results = list_results(runs)
    columns = select_columns(
        protocols, (run.protocol.name for run in runs if run.protocol is not None)
    )
    shown = {p.name for column in columns for p in column.protocols}
    # Without a column of its own, but others' results follow from it.
    shown |= {source.name for column in columns for protocol in column.protocols
              for source in find_sources(protocol) if source.name not in COLUMN_OF}
    check = SetupCheck(root)
    rows = group_rows(results, shown, check)
    backbones = {row.backbone for row in rows} & set(BACKBONES.values())
    sections = group_sections(results, shown if protocols else None)
    notes = collect_notes(rows, sections, runs, problems, columns, check)
    # Other lists have their place in the picture unless some protocols were asked for.
    sweeps = collect_sweeps([] if protocols else results, rows, columns, trained)
    return Summary(columns, rows, select_published(backbones), notes, sweeps, sections, retrieval)
