"""EXTENSIONS: a user's own modules, which register entries and declare keys when imported.

Only modules that the user names, in a ``--cfg`` file or with ``--opts``, are imported. A module
that is named by the config inside a checkpoint or another file of weights is refused until the user
names it too: opening other people's weights must not run code.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from openvclip.config.defaults import flatten, get_cfg
from openvclip.config.safe_yaml import MOST_BYTES, load_yaml
from openvclip.config.values import parse_text
from openvclip.utils.errors import ConfigError, first_line

KEY = "EXTENSIONS"
_loaded: set[str] = set()
extension_keys: set[str] = set()  # what they declare


def load_extensions(names: Any) -> None:
    """Import modules, each once per process.

    Args:
        names: dotted names of modules, or a text of a list of them.

    Raises:
        ConfigError: not a list of names, or a module cannot be imported.
    """
    names = parse_text(names) if isinstance(names, str) else names
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
    """Raise unless the user has named every extension that a stored config names.

    Args:
        config: the config of a checkpoint, an average or a file next to it.
        where: the file, for the message.

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
