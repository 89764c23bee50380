"""Registries: the names that a setting takes, and what each stands for, imported at first use."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from openvclip.utils.errors import ConfigError

T = TypeVar("T")


def not_a_choice(key: str, value: Any, allowed: Iterable[Any]) -> str:
    """Say that ``key`` cannot be ``value``, which values it takes, and which of them is closest."""
    return f"{key} is {value!r}; {list_choices(value, tuple(allowed))}"


def list_choices(value: Any, allowed: tuple[Any, ...]) -> str:
    """List the allowed values, with the one closest to ``value``."""
    names = ", ".join(repr(name) for name in allowed)
    near = difflib.get_close_matches(str(value).lower(), [str(name) for name in allowed], n=1)
    hint = f"; nearest: {near[0]}" if near and len(allowed) > 1 else ""
    return f"{'one of ' if len(allowed) > 1 else 'only '}{names}{hint}"


def _name(entry: Any) -> str:
    return f"{entry.__module__}:{entry.__qualname__}"


class Registry:
    """The entries of one door, by name.

    Args:
        key: the config key or command-line option that names an entry, for messages.
        entries: name -> ``module:attribute``, imported when the entry is first asked for.
    """

    def __init__(self, key: str, entries: Mapping[str | None, str]) -> None:
        self.key = key
        self._entries: dict[str | None, Any] = dict(entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def names(self) -> tuple[str | None, ...]:
        """All names, in the order of registration."""
        return tuple(self._entries)

    def register(self, name: str) -> Callable[[T], T]:
        """Return a decorator that adds what it decorates under ``name``.

        Raises:
            ConfigError: the name is taken by another entry.
        """

        def add(entry: T) -> T:
            own = _name(entry)
            taken = self._entries.get(name)
            if taken is not None:
                by = taken if isinstance(taken, str) else _name(taken)
                if by != own:  # the same again is a module that was loaded a second time
                    raise ConfigError(f"{self.key} {name!r} is registered by {by} and by {own}; "
                                      "give one of them another name")
            self._entries[name] = entry
            return entry

        return add

    def get(self, name: str | None) -> Any:
        """Return the entry, imported if need be.

        Raises:
    ConfigError: there is no such entry; the message has the closest name and all names.
        """
        if name not in self._entries:
            raise ConfigError(f"{self.key} {name!r} is unknown; use "
                              f"{list_choices(name, self.names())}")
        entry = self._entries[name]
        if isinstance(entry, str):
            module, _, attribute = entry.partition(":")
            self._entries[name] = entry = getattr(importlib.import_module(module), attribute)
        return entry
