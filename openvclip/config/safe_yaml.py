"""The yaml that plain settings need, and no more: read at a bounded cost, whatever a file says.

An alias stands for everything in its anchor, and an anchor may contain aliases: a few hundred bytes
can mean more values than any memory holds. So values are counted with aliases expanded.
"""

from __future__ import annotations

from typing import Any, NoReturn

import yaml
from yaml.constructor import ConstructorError

# The largest config of the project has about 400 values, 3 deep, in 4 KB.
MOST_BYTES = 256 << 10
MOST_VALUES = 10_000
MOST_DEPTH = 30
# Longer texts are not numbers; reading some notations takes time quadratic in their length.
MOST_DIGITS = 400
_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")


class SafeYaml(yaml.SafeLoader):
    """yaml's safe loader, refusing a key that is given twice with two values, and bounded.

    Twice with the same value, as in a published file, is not an error.
    """

    def __init__(self, stream: Any) -> None:
        super().__init__(stream)
        self._count = self._depth = 0
        self._sizes: dict[str, int] = {}  # of what anchors stand for, aliases written out

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Compose the next node, unless it makes too many values."""
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            anchor = event.anchor or ""  # yaml gives every alias one
            if anchor in self.anchors and anchor not in self._sizes:
                _refuse(f"*{anchor} refers to itself", event)
            self._add(self._sizes.get(anchor, 1), event)
            return super().compose_node(parent, index)
        before = self._count
        self._add(1, event)
        self._depth += 1
        if self._depth > MOST_DEPTH:
            _refuse(f"values are nested more than {MOST_DEPTH} levels deep", event)
        node = super().compose_node(parent, index)
        self._depth -= 1
        if event.anchor:
            self._sizes[event.anchor] = self._count - before
        return node

    def compose_scalar_node(self, anchor: Any) -> yaml.ScalarNode:
        """Compose a single value, unless it is a number with very many digits."""
        node = super().compose_scalar_node(anchor)
        if node.tag in _NUMBERS and len(node.value) > MOST_DIGITS:
            _refuse(f"a number has more than {MOST_DIGITS} digits", node)
        return node

    def _add(self, count: int, event: Any) -> None:
        self._count += count
        if self._count > MOST_VALUES:
            _refuse(f"there are more than {MOST_VALUES:,} values, aliases written out", event)


def _refuse(problem: str, where: Any) -> NoReturn:
    raise ConstructorError(None, None, problem, where.start_mark)


def _construct_mapping(loader: SafeYaml, node: yaml.MappingNode) -> dict[Any, Any]:
    mapping: dict[Any, Any] = {}
    loader.flatten_mapping(node)
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        value = loader.construct_object(value_node, deep=True)
        try:
            repeated = key in mapping and mapping[key] != value
        except TypeError:
            _refuse("a key is not a name", key_node)
        if repeated:
            _refuse(f"{key} is given twice, with different values", key_node)
        mapping[key] = value
    return mapping


SafeYaml.add_constructor("tag:yaml.org,2002:map", _construct_mapping)


def load_yaml(text: str) -> Any:
    """Return the content of ``text``: mappings, lists, texts, numbers, dates, None.

    Raises:
        ValueError: it is not yaml, or larger than settings can be; one line that says where.
    """
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > MOST_BYTES:
        raise ValueError(f"it has {size:,} bytes; settings may have at most {MOST_BYTES:,}")
    try:
        return yaml.load(text, SafeYaml)  # noqa: S506 - a subclass of the safe loader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f"line {mark.line + 1}: " if mark else ""
        raise ValueError(f"{line}{error.problem or error.context}") from None
    except (yaml.YAMLError, ValueError, TypeError, RecursionError, OverflowError) as error:
        raise ValueError(" ".join(f"not a yaml file: {error}".split())[:300]) from None
