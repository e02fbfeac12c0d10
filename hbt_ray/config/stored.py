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
# Where a search or study has settings of its runs; all but those of `run` may have shortened keys.
_OF_RUNS = re.compile(r"^(run|space|(methods|pretraining)\..+?\.settings)\.")
# Text with variables replaced -> dotted key of its setting -> the text as it was written; of this process, because a
# configuration has values only.
WrittenVariables = dict[str, dict[str, str]]
_written: WrittenVariables = {}


def expand_environment(value: object, key: str = "", *, keep_missing: bool = False) -> Any:
    """Replace `${NAME}` by the environment variable, so that one file serves machines with different folders.

    Args:
        value: a setting, or nested settings.
        key: of it, dotted.
        keep_missing: keep `${NAME}` if there is no such variable, for settings that are only compared.

    Raises:
        ConfigError: there is no such variable.
    """
    if isinstance(value, dict):
        return {
            name: expand_environment(inner, f"{key}.{name}" if key else str(name), keep_missing=keep_missing)
            for name, inner in value.items()
        }
    if isinstance(value, list):
        return [expand_environment(inner, key, keep_missing=keep_missing) for inner in value]
    if not isinstance(value, str):
        return value

    def variable(name: re.Match[str]) -> str:
        if name[1] in os.environ:
            return os.environ[name[1]]
        if keep_missing:
            return name[0]
        raise ConfigError(f"{value!r} needs the environment variable {name[1]}; export {name[1]}=...")

    expanded = _VARIABLE.sub(variable, value)
    if expanded not in ("", value):
        _written.setdefault(expanded, {})[key] = value
    return expanded


def resolved_path(path: str) -> str:
    """Return an absolute path for one that exists; what was written for it is kept if that is absolute as well."""
    absolute = str(Path(path).expanduser().resolve())
    if path in _written and Path(path).is_absolute():
        keep_written_variables({absolute: _written[path]})
    return absolute


def written_variables() -> WrittenVariables:
    """Return text with variables replaced -> key of its setting -> the text as it was written, for another process."""
    return {text: dict(by_key) for text, by_key in _written.items()}


def keep_written_variables(written: Mapping[str, Mapping[str, str]]) -> None:
    """Take over what another process read, see `written_variables`."""
    for text, by_key in written.items():
        _written.setdefault(text, {}).update(by_key)


def stored_settings(config: ConfigSection) -> Settings:
    """Return settings as plain values for a file, with `${NAME}` as it was written and with `***` for secrets."""
    stored: Settings = _stored((), config.model_dump(mode="json"), keep_variables=True)
    return stored


def stored_text(text: str) -> str:
    """Return a model's path, or one below a setting, as it is written to files: with `${NAME}` and without secrets."""
    if (written := _as_written("model.path", text)) is not None:
        return redact_value(written)
    for expanded, by_key in _written.items():
        if text.startswith(f"{expanded}/"):
            return redact_value(next(iter(by_key.values())) + text.removeprefix(expanded))
    return redact_value(text)


def redacted_settings(settings: Any) -> Any:
    """Return plain settings with `***` for secrets, which a file of `stored_settings` is compared with."""
    return _stored((), settings, keep_variables=False)


def dump_config(config: ConfigSection) -> str:
    """Return the configuration as YAML, from which `load` builds an equal one, except for secrets."""
    return dump_yaml(stored_settings(config))


def dump_yaml(settings: Mapping[str, object]) -> str:
    """Return settings as YAML, in their order."""
    # Escaped, because YAML takes some characters, such as U+0085, for ends of lines.
    return yaml.safe_dump(settings, sort_keys=False, allow_unicode=False)


def _stored(key: tuple[str, ...], value: object, *, keep_variables: bool) -> Any:
    if isinstance(value, dict):
        return {name: _stored((*key, str(name)), inner, keep_variables=keep_variables) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_stored(key, inner, keep_variables=keep_variables) for inner in value]
    if not isinstance(value, str):
        return value
    if keep_variables and (written := _as_written(".".join(key), value)) is not None:
        return redact_value(written)
    return MASK if value and is_secret("".join(key[-1:])) else redact_value(value)


def _as_written(key: str, text: str) -> str | None:
    """Return the text as it was written for a setting, or None.

    A path may have been written for another setting: that of a teacher or dev set is taken over from it.
    """
    by_key = _written.get(text, {})
    of_setting = (written for written_for, written in by_key.items() if _is_same_setting(key, written_for))
    return next(of_setting, next(iter(by_key.values()), None) if "/" in text else None)


def _is_same_setting(key: str, written_for: str) -> bool:
    """Return True if a key is what a text was written for, in the settings of a run, search or study."""
    of_run, other = (_OF_RUNS.sub("", one).removesuffix(".values") for one in (key, written_for))
    may_be_short = other != written_for and not written_for.startswith("run.")
    return of_run == other or (may_be_short and of_run.endswith(f".{other}"))
