"""Config keys of the tasks that come with the package; importing them takes no torch."""

from __future__ import annotations

from collections.abc import Iterator

from fvcore.common.config import CfgNode

from openvclip.config.defaults import under
from openvclip.config.extensions import declare
from openvclip.config.idle import RESULT, Pair, equals, trains

# Tasks that need a label map: it is read before torch is loaded. An extension adds its own.
WITH_CLASSES = {"classification"}


def check_retrieval(cfg: CfgNode) -> Iterator[str]:
    if cfg.TEST.TASK != "retrieval" or not cfg.TEST.ENABLE:
        return
    if not cfg.TEST.RETRIEVAL_FILE:
        yield ("TEST.RETRIEVAL_FILE is empty; TEST.TASK 'retrieval' needs the list of videos and "
               "captions")
    if cfg.TEST.OPENSET:
        yield ("TEST.OPENSET is True, which names a list of classes; TEST.TASK 'retrieval' reads "
               "TEST.RETRIEVAL_FILE: set OPENSET False")
    if cfg.DATA.ENSEMBLE_METHOD != "sum":
        yield (f"DATA.ENSEMBLE_METHOD is {cfg.DATA.ENSEMBLE_METHOD!r}; TEST.TASK 'retrieval' "
               "averages the embeddings of a video's clips: set it to 'sum'")


declare({
    "TEST.RETRIEVAL_FILE": "",  # Ours. Videos and their captions: csv, json, jsonl.
    # Ours. The split to use from a RETRIEVAL_FILE whose videos name theirs (MSR-VTT's own); "":
    # all.
    "TEST.RETRIEVAL_SPLIT": "test",
}, needs=[
    equals("TEST.TASK", ("retrieval",), ("TEST.RETRIEVAL_FILE",), RESULT),
    equals("TEST.TASK", ("retrieval",), ("TEST.RETRIEVAL_SPLIT",)),
    Pair(("TEST_FILE",), ("TEST.TASK",),
         "a list of classes, which TEST.TASK retrieval does not read",
         lambda flat: flat["TEST.TASK"] != "retrieval", instead="set TEST.RETRIEVAL_FILE"),
    Pair(under("MODEL", "TEXT_TEMPLATES CLASS_DESCRIPTIONS"), ("TEST.TASK",),
         "classes, of which TEST.TASK retrieval has none",
         lambda flat: flat["TEST.TASK"] != "retrieval" or trains(flat),
         instead="set another TEST.TASK"),
], rules=[check_retrieval])
