"""Config keys of the objectives that come with the package; importing them takes no torch.

One module per family, named in openvclip/config/doors.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from fvcore.common.config import CfgNode

from openvclip.config.defaults import flatten
from openvclip.config.extensions import declare

_SWITCHES: dict[str, dict[str, Any]] = {}


def switch(name: str, key: str, value: Any = True) -> None:
    """Let the objective ``name`` be on where the setting ``key`` is ``value``.

    With several keys, each of them switches it on.
    """
    _SWITCHES.setdefault(name, {})[key] = value


def switched_on(cfg: CfgNode) -> list[str]:
    """Return the objectives that keys of their own switch on."""
    flat = flatten(cfg)
    return [name for name, keys in _SWITCHES.items()
            if any(flat[key] == value for key, value in keys.items())]


def refuse_with(
    name: str, is_on: Callable[[CfgNode], bool], others: Mapping[str, tuple[Any, str]]
) -> Callable[[CfgNode], Iterator[str]]:
    """Return a rule: while ``is_on``, each key of ``others`` must have one value, for a reason.

    Args:
        name: what is on, as the message calls it: ``TRAIN.EWC_SET True``.
        is_on: whether it is.
        others: key -> the value that it must have, and why.
    """

    def rule(cfg: CfgNode) -> Iterator[str]:
        flat = flatten(cfg)
        for key, (allowed, why) in others.items() if is_on(cfg) else ():
            if flat[key] != allowed:
                yield f"{key} is {flat[key]}; with {name} it must be {allowed}: {why}"

    return rule


def check_objectives(cfg: CfgNode) -> Iterator[str]:
    names = cfg.TRAIN.OBJECTIVES
    for name in dict.fromkeys(names):
        if name in _SWITCHES:
            keys = " or ".join(f"{key} {value}" for key, value in _SWITCHES[name].items())
            yield f"TRAIN.OBJECTIVES has {name!r}, which {keys} switches on; set that instead"
        elif names.count(name) > 1:
            yield f"TRAIN.OBJECTIVES has {name!r} {names.count(name)} times; give it once"


declare({
    # Ours. Additional objectives: names of objectives that no key of their own switches on, and of
    # those that extensions register, see docs/methods.md and docs/extending.md.
    "TRAIN.OBJECTIVES": [],
}, types={"TRAIN.OBJECTIVES": str}, rules=[check_objectives])
