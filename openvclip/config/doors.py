"""What openvclip can be extended by: one registry per door, one line per entry.

Here, and not beside the entries, so that a config is checked without importing torch. An entry
outside the package registers itself, see docs/extending.md.
"""

from __future__ import annotations

from openvclip.utils.registry import Registry

TASKS = Registry("TEST.TASK", {
    "classification": "openvclip.evaluation.tasks.classification:build_tester",
    "retrieval": "openvclip.evaluation.tasks.retrieval:build_retrieval",
})
