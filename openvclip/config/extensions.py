"""EXTENSIONS: a user's own modules, and the keys that an entry of a door declares.

Only modules that the user names, in a ``--cfg`` file or with ``--opts``, are imported. A module
that is named by the config inside a checkpoint or another file of weights is refused until the user
names it too: opening other people's weights must not run code.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from fvcore.common.config import CfgNode

from openvclip.config import defaults, idle, validate, values
from openvclip.config.defaults import flatten, get_cfg
from openvclip.config.safe_yaml import MOST_BYTES, load_yaml
from openvclip.utils.errors import ConfigError, first_line
from openvclip.utils.registry import Registry

KEY = "EXTENSIONS"
KINDS = (bool, int, float, str, list, tuple, type(None))
_loaded: set[str] = set()
extension_keys: set[str] = set()  # what they declare


def load_extensions(names: Any) -> None:
    """Import modules, each once per process: a list of dotted names, or its text.

    Raises:
        ConfigError: not a list of names, or a module cannot be imported.
    """
    names = values.parse_text(names) if isinstance(names, str) else names
    if names is None:
        names = []
    if not isinstance(names, (list, tuple)) or not all(isinstance(x, str) for x in names):
        raise ConfigError(f"{KEY} is {names!r}; give a list of modules, such as "
                          '["my_package.my_objective"]')
    for name in names:
        if name in _loaded:
            continue
        before = set(flatten(get_cfg()))
        try:
            importlib.import_module(name)
        except ConfigError as error:
            raise ConfigError(f"{KEY} {name}: {error}") from error
        except Exception as error:  # whatever a user's module raises while it is imported
            raise ConfigError(
                f"{KEY} {name} cannot be imported: {type(error).__name__}: {first_line(error)}; "
                "install it, or name its folder in PYTHONPATH"
            ) from error
        _loaded.add(name)
        extension_keys.update(set(flatten(get_cfg())) - before)


def refuse_stored(config: Any, where: Any) -> None:
    """Raise unless the user has named every extension that the config stored in ``where`` names.

    Raises:
        ConfigError: it names others.
    """
    named = config.get(KEY) if isinstance(config, Mapping) else None
    names = named if isinstance(named, list) else [named] if named else []
    others = [str(name) for name in names if name not in _loaded]
    if others:
        raise ConfigError(f"the config in {where} names {KEY} {', '.join(others)}; give {KEY} "
                          "yourself with --opts if you trust it")


def parse_stored(text: Any, where: Any) -> Any:
    """Read the config that a checkpoint holds as text; None if it holds none.

    Raises:
        ConfigError: as :func:`refuse_stored`.
    """
    try:
        config = load_yaml(text) if isinstance(text, str) and len(text) <= MOST_BYTES else None
    except ValueError:
        return None
    refuse_stored(config, where)
    return config


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
    known = flatten(get_cfg())
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
