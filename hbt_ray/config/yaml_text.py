"""YAML of settings, parsed within limits and without surprises.

Scalars are those that YAML 1.1 and 1.2 have in common: `no`, `12:30` and `2024-01-01` are texts, not false, 750 and a
date. A key that occurs twice is an error, because YAML would keep the last without a word.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Any, ClassVar

import yaml

from hbt_ray.errors import ConfigError
from hbt_ray.utils.limits import MAX_CONFIG_BYTES, MAX_CONFIG_VALUES, limit

_MERGE = "tag:yaml.org,2002:merge"
_SCALARS = {
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "bool": (r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    "int": (r"[-+]?(?:0|[1-9][0-9_]*)|0x[0-9a-fA-F_]+", list("-+0123456789")),
    "float": (
        r"[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)(?:[eE][-+][0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        list("-+0123456789."),
    ),
    "merge": (r"<<", ["<"]),
}


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: ClassVar[dict[str, list[tuple[str, re.Pattern[str]]]]] = {}  # type: ignore[misc]


for _tag, (_pattern, _first) in _SCALARS.items():
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"(?:{_pattern})\Z"), _first)


def parse_yaml(text: str, name: object) -> Any:
    """Return the value of a text.

    Args:
        text: one document.
        name: of the file or override, for messages.

    Raises:
        ConfigError: it is not valid YAML, repeats a key, refers to itself, or is larger than the limits.
    """
    largest = limit(MAX_CONFIG_BYTES)
    if len(text) > largest:
        raise ConfigError(f"{name} has more than {largest} characters; shorten it or raise {MAX_CONFIG_BYTES}")
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        values = _count_values(node, name, {})
        if values > limit(MAX_CONFIG_VALUES):
            raise ConfigError(f"{name} holds {values} values, with aliases; shorten it or raise {MAX_CONFIG_VALUES}")
        return None if node is None else loader.construct_document(node)
    except RecursionError:
        raise ConfigError(f"{name} is nested too deeply") from None
    except (yaml.YAMLError, ValueError, TypeError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{name} is not valid YAML: {' '.join(str(error).split())[:500]}") from None


def _count_values(node: yaml.Node | None, name: object, counted: dict[yaml.Node, int | None]) -> int:
    """Count the values below a node, those of an alias each time that it occurs.

    Args:
        node: a value; None: no document.
        name: of the text, for messages.
        counted: the nodes seen, with their numbers; None for those that contain the node.

    Raises:
        ConfigError: a node contains itself, or a mapping has a key twice.
    """
    if node is None or isinstance(node, yaml.ScalarNode):
        return 1
    if node in counted:
        number = counted[node]
        if number is None:
            raise ConfigError(f"{name} refers to itself by the alias in line {node.start_mark.line + 1}")
        return number
    counted[node] = None
    if isinstance(node, yaml.MappingNode):
        keys = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.tag != _MERGE)
        repeated, times = keys.most_common(1)[0] if keys else ("", 0)
        if times > 1:
            raise ConfigError(f"{name} has the key {repeated!r} twice in one section; keep one")
    inner = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else list(node.value)
    counted[node] = total = 1 + sum(_count_values(part, name, counted) for part in inner)
    return total


def text_value(text: str, optional: bool) -> str | None:
    """Return the value of an override of a text: as it is written, unless it is quoted.

    Args:
        text: after the equals sign.
        optional: whether the setting may be null.

    Raises:
        ConfigError: the text begins with a quotation mark and is not valid YAML.

    >>> text_value("query: ", False), text_value("'1'", False), text_value("null", True), text_value("no", True)
    ('query: ', '1', None, 'no')
    """
    if optional and text.strip() in {"", "~", "null", "Null", "NULL"}:
        return None
    if text[:1] in {"'", '"'}:
        quoted = parse_yaml(text, f"the value {text!r}")
        return quoted if isinstance(quoted, str) else text
    return text
