"""Makes plain values of YAML within limits that no recipe comes near.

Anchors make a short file a large or an endless one: ten lines of nine aliases each are a billion
values to whoever copies or prints them. So values count as often as they are repeated.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import yaml

MAX_DEPTH = 32
"""Lists and mappings in each other."""
MAX_VALUES = 20_000
"""Keys and values, those of an anchor once for each alias."""
MAX_KEY_CHARACTERS = 200
"""Messages name keys as they are."""
MAX_NUMBER_CHARACTERS = 100
MERGE = "tag:yaml.org,2002:merge"
NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Extent:
    """How large a node is when it is written out."""

    values: int
    depth: int


class BoundedLoader(yaml.SafeLoader):
    """A SafeLoader that refuses a key given twice, keys that cannot be shown, and bombs."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._depth = self._composed = 0
        self._extents: dict[int, _Extent] = {}
        """By the id of a finished node; all of them live as long as the file is read."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Compose a node, and measure it before anything is made of it."""
        event = self.peek_event()  # type: ignore[no-untyped-call]
        self._depth += 1
        self._composed += 1
        if self._composed > MAX_VALUES:
            raise _refusal(f"has more than {MAX_VALUES} values", event)
        if self._depth > MAX_DEPTH:
            raise _refusal(f"is nested deeper than {MAX_DEPTH} levels", event)
        node = super().compose_node(parent, index)
        self._depth -= 1
        if node is None:
            return None
        if not isinstance(event, yaml.AliasEvent):
            self._extents[id(node)] = self._extent(node)
        elif id(node) not in self._extents:
            raise _refusal(f"alias '{event.anchor}' stands in itself", event)
        extent = self._extents[id(node)]
        if self._depth + extent.depth > MAX_DEPTH:
            raise _refusal(f"is nested deeper than {MAX_DEPTH} levels by its anchors", event)
        if extent.values > MAX_VALUES:
            raise _refusal(f"has more than {MAX_VALUES} values, with those of its anchors", event)
        return node

    def _extent(self, node: yaml.Node) -> _Extent:
        if isinstance(node, yaml.MappingNode):
            parts = [part for pair in node.value for part in pair]
        else:
            parts = node.value if isinstance(node, yaml.SequenceNode) else []
        inner = [self._extents[id(part)] for part in parts]
        return _Extent(
            values=1 + sum(extent.values for extent in inner),
            depth=1 + max((extent.depth for extent in inner), default=0),
        )

    def compose_scalar_node(self, anchor: Any) -> yaml.ScalarNode:
        """Compose a value; a number of many digits takes minutes, and no message can show it."""
        node = super().compose_scalar_node(anchor)
        if node.tag in NUMBERS and len(node.value) > MAX_NUMBER_CHARACTERS:
            raise _refusal(f"is a number of {len(node.value)} characters", node)
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Compose a mapping, and look at its keys."""
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise _refusal("a key is a list or a mapping; keys are words", key_node)
            key = key_node.value
            if not _can_be_shown(key):
                raise _refusal(f"{key[:MAX_KEY_CHARACTERS]!r} is no name of a key", key_node)
            if key in seen:
                raise _refusal(f"key '{key}' is given twice", key_node)
            seen.add(key)
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """Make a value; a wrong `!!int`, `!!bool` or `!!timestamp` is an error with its place."""
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, AttributeError):  # what SafeLoader lets out of these
            value = str(node.value)[:MAX_KEY_CHARACTERS]
            raise _refusal(f"{value!r} is no {node.tag.rpartition(':')[2]}", node) from None


def _can_be_shown(key: str) -> bool:
    return key.isprintable() and key.strip() != "" and len(key) <= MAX_KEY_CHARACTERS


def _refusal(problem: str, place: Any) -> yaml.MarkedYAMLError:
    """Return the error of an event or a node."""
    return yaml.constructor.ConstructorError(None, None, problem, place.start_mark)
