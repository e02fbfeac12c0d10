"""Print the reference of all settings from the schema, as Markdown: `python -m hbt_ray.config.reference`."""

from __future__ import annotations

import re
import types
from collections.abc import Iterator
from typing import Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from hbt_ray.config.base import ConfigSection
from hbt_ray.config.run import PretrainRunConfig, RunConfig
from hbt_ray.config.schema import LoopConfig

_HEADER = ["| setting | values | default | meaning |", "|---|---|---|---|"]
REQUIRED, SEE_BELOW = "required", "see below"  # instead of a default; the default of a section
_BOUNDS = {"ge": "≥ {}", "gt": "> {}", "le": "≤ {}", "lt": "< {}"}


def reference() -> str:
    """Return the tables of all settings, a section each, in the order of the schema."""
    lines = [
        "## The run",
        "",
        *_table(RunConfig, RunConfig.model_fields),
        "",
        "`hbt pretrain` has the same sections without `mix`, `loss`, `mine`, `train` and `evaluate`, and `pretrain`.",
        "",
    ]
    for name, field in RunConfig.model_fields.items():
        section = section_of(field.annotation)
        if section is not None and name != "train":
            lines += _section(name, section)
    lines += ["## train and pretrain: the training loop", "", *_table(LoopConfig, LoopConfig.model_fields), ""]
    lines += _inner_sections(LoopConfig, "")
    for run, name in ((RunConfig, "train"), (PretrainRunConfig, "pretrain")):
        section = section_of(run.model_fields[name].annotation)
        assert section is not None
        lines += [f"## {name}: its own settings", "", str(section.__doc__), "", *_table(section, _added(section)), ""]
    return "\n".join(lines).rstrip() + "\n"


def settings_table(section: type[ConfigSection]) -> list[str]:
    """Return the lines of a table of a section's settings."""
    return _table(section, section.model_fields)


def _section(name: str, section: type[ConfigSection]) -> Iterator[str]:
    """Yield the heading, text and table of a section, and then of the sections inside it."""
    yield from [
        f"## {name}",
        "",
        " ".join(str(section.__doc__).split()),
        "",
        *_table(section, section.model_fields),
        "",
    ]
    yield from _inner_sections(section, f"{name}.")


def _inner_sections(section: type[ConfigSection], prefix: str) -> Iterator[str]:
    """Yield the heading, text and table of each section inside a section, whose key with a dot is the prefix."""
    for key, field in section.model_fields.items():
        inner = section_of(field.annotation)
        if inner is not None:
            text = " ".join(str(inner.__doc__).split())
            yield from [f"### {prefix}{key}", "", text, "", *_table(inner, inner.model_fields), ""]


def _added(section: type[ConfigSection]) -> dict[str, FieldInfo]:
    """Return the fields that a training loop adds to `LoopConfig`, or to which it gives another default."""
    common = LoopConfig.model_fields
    return {
        name: field
        for name, field in section.model_fields.items()
        if name not in common or field.default != common[name].default
    }


def _table(section: type[ConfigSection], fields: dict[str, FieldInfo]) -> list[str]:
    return [
        *_HEADER,
        *(
            f"| `{name}` | {values_of(field)} | {default_of(field)} | {meaning_of(field)} |"
            for name, field in fields.items()
        ),
    ]


def values_of(field: FieldInfo) -> str:
    """Describe the accepted values: `int ≥ 1`, or the words of a Literal."""
    bounds = [
        form.format(_number(value))
        for constraint in field.metadata
        for name, form in _BOUNDS.items()
        if (value := getattr(constraint, name, None)) is not None
    ]
    return ", ".join([_type_name(field.annotation), *bounds]).replace("|", "\\|")


def _type_name(annotation: object) -> str:
    if annotation is None or annotation is type(None):
        return "null"
    section = annotation if isinstance(annotation, type) and issubclass(annotation, ConfigSection) else None
    if section is not None:
        return "section"
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join(_type_name(argument) for argument in arguments)
    if origin is tuple:
        if arguments[-1] is Ellipsis:
            return f"list of {_type_name(arguments[0])}"
        return f"[{', '.join(_type_name(argument) for argument in arguments)}]"
    if origin is dict:
        return f"mapping of {_type_name(arguments[0])} to {_type_name(arguments[1])}"
    if hasattr(annotation, "__metadata__"):  # Annotated
        return _type_name(arguments[0])
    name = getattr(annotation, "__name__", str(annotation))
    return {"str": "text", "bool": "true, false", "Any": "values"}.get(name, name)


def default_of(field: FieldInfo) -> str:
    """Describe the default of a setting, as Markdown."""
    default = field.get_default(call_default_factory=True, validated_data={})
    if default is PydanticUndefined:
        return REQUIRED
    if isinstance(default, ConfigSection):
        return SEE_BELOW
    if isinstance(default, tuple) and default and isinstance(default[0], ConfigSection):
        return "none in commands; from Python the embedded corpus"
    if default is None:
        return "null"
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    if isinstance(default, dict):
        entries = ", ".join(f"{key}: {_number(value)}" for key, value in default.items())
        return f"`{{{entries}}}`"
    if isinstance(default, tuple):
        return f"`{list(default)}`"
    return f"`{_number(default)}`" if default != "" else '`""`'


def _number(value: object) -> object:
    """Write powers of two as `2^63` and floats in their shortest form."""
    if isinstance(value, int) and value >= 2**32 and value & (value - 1) == 0:
        return f"2^{value.bit_length() - 1}"
    return f"{value:g}" if isinstance(value, float) else value


def meaning_of(field: FieldInfo) -> str:
    """Return the documentation of a setting, or the first line of its section's."""
    section = section_of(field.annotation)
    text = field.description or (str(section.__doc__).partition("\n")[0] if section is not None else "")
    return re.sub(r"\bNone\b", "null", re.sub(r"\s+", " ", text)).replace("|", "\\|")


def section_of(annotation: object) -> type[ConfigSection] | None:
    """Return the section that a field holds, as itself, as a list's entry or in a union with None."""
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, ConfigSection):
            return candidate
    return None


if __name__ == "__main__":
    print(reference(), end="")
