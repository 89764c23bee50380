"""Config keys that an entry of a door declares in its own module."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from fvcore.common.config import CfgNode

from openvclip.config import defaults, idle, validate, values
from openvclip.utils.errors import ConfigError
from openvclip.utils.registry import Registry

KINDS = (bool, int, float, str, list, tuple, type(None))


def declare(
    keys: Mapping[str, Any],
    *,
    entry: tuple[Registry, str] | None = None,
    types: Mapping[str, type] | None = None,
    choices: Mapping[str, tuple[Any, ...]] | None = None,
    ranges: Mapping[str, tuple[float | None, float | None]] | None = None,
    needs: Sequence[idle.Pair] = (),
    rules: Iterable[Callable[[CfgNode], Iterator[str]]] = (),
) -> None:
    """Add keys to the config; call this when an entry's module is imported.

    Args:
        keys: ``{"TRAIN.MY_LOSS.WEIGHT": 1.0}``: full names and defaults, whose types the values
            must have.
        entry: registry and name of the entry that reads the keys; setting one of them without
            that entry is refused then.
        types: types of keys whose default is None (else str), and of the elements of an empty list.
        choices: values that a key may have.
        ranges: smallest and largest value, both included; None: unbounded.
        needs: other settings that keys need to have an effect.
        rules: return a line for each combination of settings that cannot be used.

    Raises:
        ConfigError: a key exists with another default or inside another key, or its default has
            a type that settings cannot have.
    """
    known = defaults.flatten(defaults.get_cfg())
    for key, default in keys.items():
        if key in known and (type(known[key]), known[key]) != (type(default), default):
            raise ConfigError(f"the key {key} is declared with the default {default!r}, but exists "
                              f"with {known[key]!r}; give it another name")
        if type(default) not in KINDS:
            raise ConfigError(f"the key {key} has a {type(default).__name__} as its default; give "
                              "it a number, a text, True, False, None or a list")
        defaults.add(key, default)
    for name, kind in (types or {}).items():
        table = values.OPTIONAL if keys[name] is None else values.ELEMENTS
        table[name] = kind
    validate.CHOICES.update(choices or {})
    validate.RANGES.update(ranges or {})
    added = list(needs)
    if entry is not None:
        added.append(_needs_entry(tuple(keys), *entry))
    idle.PAIRS.extend(pair for pair in added if pair not in idle.PAIRS)
    validate.RULES.extend(rule for rule in rules if rule not in validate.RULES)


def _needs_entry(keys: tuple[str, ...], door: Registry, name: str) -> idle.Pair:
    def met(flat: dict[str, Any]) -> bool:
        value = flat.get(door.key)
        return name in value if isinstance(value, list) else name == value

    return idle.Pair(keys, (door.key,), f"{name!r} in {door.key}", met)
