"""Settings as they are written to files and to MLflow: `${NAME}` is kept, secrets are not."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from hbt_ray.config.base import ConfigSection, Settings
from hbt_ray.errors import ConfigError
from hbt_ray.utils.redaction import MASK, is_secret, redact_value

_VARIABLE = re.compile(r"\$\{(\w+)\}")
# Text with variables replaced -> the text as it was written; of this process, because a configuration has values only.
_written: dict[str, str] = {}


def expand_environment(value: object, *, keep_missing: bool = False) -> Any:
    """Replace `${NAME}` by the environment variable, so that one file serves machines with different folders.

    Args:
        value: a setting, or nested settings.
        keep_missing: keep `${NAME}` if there is no such variable, for settings that are only compared.

    Raises:
        ConfigError: there is no such variable.
    """
    if isinstance(value, dict):
        return {key: expand_environment(inner, keep_missing=keep_missing) for key, inner in value.items()}
    if isinstance(value, list):
        return [expand_environment(inner, keep_missing=keep_missing) for inner in value]
    if not isinstance(value, str):
        return value

    def variable(name: re.Match[str]) -> str:
        if name[1] in os.environ:
            return os.environ[name[1]]
        if keep_missing:
            return name[0]
        raise ConfigError(f"{value!r} needs the environment variable {name[1]}; export {name[1]}=...")

    expanded = _VARIABLE.sub(variable, value)
    if expanded != value:
        _written[expanded] = value
    return expanded


def resolved_path(path: str) -> str:
    """Return an absolute path for one that exists; what was written for it is kept if that is absolute as well."""
    absolute = str(Path(path).expanduser().resolve())
    if path in _written and Path(path).is_absolute():
        _written[absolute] = _written[path]
    return absolute


def written_variables() -> dict[str, str]:
    """Return text with variables replaced -> the text as it was written, for another process."""
    return dict(_written)


def keep_written_variables(written: Mapping[str, str]) -> None:
    """Take over what another process read, see `written_variables`."""
    _written.update(written)


def stored_settings(config: ConfigSection) -> Settings:
    """Return settings as plain values for a file, with `${NAME}` as it was written and with `***` for secrets."""
    stored: Settings = _stored("", config.model_dump(mode="json"), keep_variables=True)
    return stored


def stored_text(text: str) -> str:
    """Return a setting, or a path below one, as it is written to files: with `${NAME}`, and with `***` for secrets."""
    for expanded, written in _written.items():
        if text == expanded or text.startswith(f"{expanded}/"):
            return redact_value(written + text.removeprefix(expanded))
    return redact_value(text)


def redacted_settings(settings: Any) -> Any:
    """Return plain settings with `***` for secrets, which a file of `stored_settings` is compared with."""
    return _stored("", settings, keep_variables=False)


def dump_config(config: ConfigSection) -> str:
    """Return the configuration as YAML, from which `load` builds an equal one, except for secrets."""
    return dump_yaml(stored_settings(config))


def dump_yaml(settings: Mapping[str, object]) -> str:
    """Return settings as YAML, in their order."""
    # Escaped, because YAML takes some characters, such as U+0085, for ends of lines.
    return yaml.safe_dump(settings, sort_keys=False, allow_unicode=False)


def _stored(key: str, value: object, *, keep_variables: bool) -> Any:
    if isinstance(value, dict):
        return {name: _stored(name, inner, keep_variables=keep_variables) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_stored(key, inner, keep_variables=keep_variables) for inner in value]
    if not isinstance(value, str):
        return value
    if keep_variables and value in _written:
        return redact_value(_written[value])
    return MASK if value and is_secret(key) else redact_value(value)
