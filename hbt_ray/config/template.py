"""Settings explained one by one, and as a file in which every setting is commented out."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

import yaml
from pydantic_core import PydanticUndefined

from hbt_ray.config.base import ConfigSection
from hbt_ray.config.reference import REQUIRED, SEE_BELOW, default_of, meaning_of, section_of, values_of
from hbt_ray.config.run import RunConfig
from hbt_ray.errors import ConfigError

_WIDTH = 78


def explain_setting(key: Sequence[str], config_type: type[ConfigSection] = RunConfig) -> str:
    """Return the meaning, values and default of a setting, or the settings of a section, as lines of 78 characters.

    Args:
        key: full key.
        config_type: of the whole file.

    Raises:
        ConfigError: an entry of a mapping or list has no documentation.
    """
    section: type[ConfigSection] | None = config_type
    field = None
    for name in key:
        field = None if section is None else section.model_fields.get(name)
        if field is None:
            raise ConfigError(f"{'.'.join(key)} is an entry that you name; explain {'.'.join(key[:-1])}")
        section = section_of(field.annotation)
    assert field is not None
    lines = [".".join(key), *textwrap.wrap(meaning_of(field), _WIDTH, initial_indent="  ", subsequent_indent="  ")]
    if section is None or default_of(field) == "null":
        lines += [f"  values   {_plain(values_of(field))}", f"  default  {_plain(default_of(field))}"]
    if section is not None:
        for name, inner in section.model_fields.items():
            default = _plain(default_of(inner))
            of_section = f"hbt config explain {'.'.join((*key, name))}"
            shown = {SEE_BELOW: of_section, REQUIRED: REQUIRED}.get(default, f"default {default}")
            text = f"{name} ({_plain(values_of(inner))}; {shown})"
            lines += textwrap.wrap(text, _WIDTH, initial_indent="  - ", subsequent_indent="    ")
    return "\n".join(lines)


def commented_settings(config_type: type[ConfigSection], title: str) -> str:
    """Return a YAML file with every setting, its meaning and its default; all are commented out but the corpora.

    A line that begins with `##` is a comment, one that begins with a single `#` is a setting.

    Args:
        config_type: of the file.
        title: its first line.
    """
    head = [f"## {title}", "## Delete the # before what should differ from its default, and before its section.", ""]
    return "\n".join([*head, *_section_lines(config_type, "")]) + "\n"


def _section_lines(section: type[ConfigSection], indent: str) -> Iterator[str]:
    for name, field in section.model_fields.items():
        inner = section_of(field.annotation)
        default = field.get_default(call_default_factory=True, validated_data={})
        yield from _comment(meaning_of(field), indent)
        if name == "corpora" and not indent:
            yield "corpora: [{format: embedded}]  # `hbt inspect PATH` prints those of your files"
        elif inner is not None and isinstance(default, ConfigSection):
            yield f"#{indent}{name}:"
            yield from _section_lines(inner, indent + "  ")
        else:
            assert default is not PydanticUndefined
            plain = section.model_construct(**{name: default}).model_dump(mode="json", include={name})[name]
            value = yaml.safe_dump(plain, default_flow_style=True, width=10_000).removesuffix("...\n").strip()
            values = _plain(values_of(field))
            yield f"#{indent}{name}: {value}" + (f"  # {values}" if len(values) < 50 else "")
        if not indent:
            yield ""


def _comment(text: str, indent: str) -> list[str]:
    return textwrap.wrap(_plain(text), _WIDTH, initial_indent=f"## {indent}", subsequent_indent=f"## {indent}")


def _plain(markdown: str) -> str:
    return markdown.replace("`", "").replace("\\|", "|")
