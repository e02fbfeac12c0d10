"""Settings read from YAML and from `key=value`, and mistakes in them explained.

A run's settings are one `RunConfig`, a pretraining's one `PretrainRunConfig`. They are read from a YAML file, where
`key=value` overrides may shorten a key to its last part (`alpha=0.6` for `mix.alpha`) when that is unique, or the least
deep of several (`mix.alpha`, not `model.lora.alpha`).
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

import yaml
from pydantic import ValidationError

from hbt_ray.config.base import ConfigSection
from hbt_ray.config.pretraining import PretrainRunConfig
from hbt_ray.config.sections import RunConfig
from hbt_ray.errors import ConfigError

S = TypeVar("S", bound=ConfigSection)
C = TypeVar("C", RunConfig, PretrainRunConfig)


def load_config(path: str | Path | None = None, overrides: Sequence[str] = ()) -> RunConfig:
    """A run's settings from a YAML file and `key=value` overrides, values written as in YAML. Raises as `load`."""
    return load(RunConfig, path, overrides)


def load(kind: type[S], path: str | Path | None = None, overrides: Sequence[str] = ()) -> S:
    """Reads a YAML file and applies `key=value` overrides, values written as in YAML.

    Raises:
        ConfigError: the file is missing or not a mapping, a key is unknown, or a value is out of range.
    """
    data = {} if path is None else read_yaml(path)
    for override in overrides:
        key, value = read_override(override)
        set_key(data, full_key(key, kind), value)
    return build(kind, data)


def read_yaml(path: str | Path) -> dict[str, Any]:
    """A YAML file's settings, with `${NAME}` replaced from the environment.

    Raises:
        ConfigError: the file is missing or not a mapping.
    """
    try:
        loaded = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read the configuration {str(path)!r}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(loaded, dict | None):
        raise ConfigError(f"{path} must hold settings as 'key: value', not a {type(loaded).__name__}")
    found: dict[str, Any] = _expanded(loaded or {})
    return found


def read_override(override: str) -> tuple[str, Any]:
    """Key and value of `key=value`, the value written as in YAML. Raises ConfigError when it is none."""
    key, equals, text = override.partition("=")
    if not equals:
        raise ConfigError(f"{override!r} is not an override; write key=value, such as alpha=0.6")
    try:
        return key, _expanded(yaml.safe_load(text))
    except yaml.YAMLError:
        raise ConfigError(f"the value of {override!r} is not valid YAML") from None


def load_with_nested_run(path: str | Path, overrides: Sequence[str]) -> dict[str, Any]:
    """The settings of what holds a run under `run`, such as a search, with `key=value` overrides applied.

    An override of the run begins with `run.`, and what follows may be shortened; the others are whole keys.

    Raises:
        ConfigError: the file cannot be read, or an override is none or names no setting of the run.
    """
    data = read_yaml(path)
    run = data.setdefault("run", {})
    for override in overrides:
        key, value = read_override(override)
        if key.startswith("run."):
            set_key(run, full_key(key.removeprefix("run.")), value)
        else:
            set_key(data, key.split("."), value)
    return data


def set_key(data: dict[str, Any], key: Sequence[str], value: Any) -> None:
    """Sets a value in nested settings."""
    *parents, leaf = key
    section = data
    for parent in parents:
        if not isinstance(section.get(parent), dict):
            section[parent] = {}
        section = section[parent]
    section[leaf] = value


def _expanded(value: Any) -> Any:
    """Values with `${NAME}` replaced from the environment, so that one file serves machines with other folders."""
    if isinstance(value, dict):
        return {key: _expanded(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_expanded(inner) for inner in value]
    if not isinstance(value, str):
        return value

    def of_environment(name: re.Match[str]) -> str:
        try:
            return os.environ[name[1]]
        except KeyError:
            raise ConfigError(f"{value!r} needs the environment variable {name[1]}; export {name[1]}=...") from None

    return re.sub(r"\$\{(\w+)\}", of_environment, value)


def build_config(data: dict[str, Any]) -> RunConfig:
    """A checked `RunConfig` from plain values. Raises ConfigError with the way out."""
    return build(RunConfig, data)


def build(section: type[S], data: dict[str, Any]) -> S:
    """A checked section from plain values. Raises ConfigError with the way out."""
    try:
        return section.model_validate(data)
    except ValidationError as error:
        raise ConfigError("; ".join(_explain(detail, section) for detail in error.errors())) from None


def with_absolute_paths(config: C) -> C:
    """The same run from wherever it is carried out: paths that exist here are made absolute, hub names stay."""
    sets = {name: absolute_path(place) for name, place in config.prepare.evaluation_sets.items()}
    update: dict[str, Any] = {
        "corpora": tuple(c.model_copy(update={"path": absolute_path(c.path)}) for c in config.corpora),
        "model": config.model.model_copy(update={"path": absolute_path(config.model.path)}),
        "prepare": config.prepare.model_copy(update={"evaluation_sets": sets}),
    }
    if isinstance(config, RunConfig):
        benchmarks = {name: absolute_path(place) for name, place in config.evaluate.benchmarks.items()}
        loss, distillation = config.loss, config.loss.distillation
        if distillation is not None:
            teacher = {"teacher": absolute_path(distillation.teacher)}
            update["loss"] = loss.model_copy(update={"distillation": distillation.model_copy(update=teacher)})
        update["evaluate"] = config.evaluate.model_copy(update={"benchmarks": benchmarks})
    return config.model_copy(update=update)


def absolute_path(path: str | None) -> str | None:
    """A path from the root of the file system; what is none here stays."""
    return str(Path(path).expanduser().resolve()) if path and Path(path).expanduser().exists() else path


def dump_config(config: ConfigSection) -> str:
    """The configuration as YAML that `load` reads back to an equal one."""
    # Escaped, because YAML takes some characters, such as U+0085, for ends of lines.
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=False)


def flatten(config: ConfigSection, prefix: str = "") -> dict[str, Any]:
    """Every setting by its dotted key, for tracking and comparison."""
    flat: dict[str, Any] = {}
    for key, value in config.model_dump(mode="json").items():
        _flatten_into(flat, prefix + key, value)
    return flat


def _flatten_into(flat: dict[str, Any], key: str, value: Any) -> None:
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            _flatten_into(flat, f"{key}.{name}", inner)
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        for place, inner in enumerate(value):
            _flatten_into(flat, f"{key}.{inner.get('name') or place}", inner)
    else:
        flat[key] = value


def _section_of(annotation: Any) -> type[ConfigSection] | None:
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, ConfigSection):
            return candidate
    return None


def _keys(section: type[ConfigSection], prefix: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, field in section.model_fields.items():
        yield (*prefix, name)
        inner = _section_of(field.annotation)
        if inner is not None and get_origin(field.annotation) is not tuple:  # a list's entries have no keys
            yield from _keys(inner, (*prefix, name))


def full_key(key: str, kind: type[ConfigSection] = RunConfig) -> tuple[str, ...]:
    """The whole key of a run's setting for one that may be shortened to its last parts.

    Raises:
        ConfigError: there is no such setting, or several.
    """
    parts = tuple(key.split("."))
    known = list(_keys(kind))
    if parts in known:
        return parts
    if any(parts[: len(k)] == k and k[-1] in {"evaluation_sets", "benchmarks"} for k in known):
        return parts
    if parts[0] == "corpora":
        raise ConfigError("corpora is a list; write the whole of it, such as corpora='[{format: jsonl, path: FOLDER}]'")
    matches = [k for k in known if k[-len(parts) :] == parts]
    least_deep = min(map(len, matches), default=0)
    matches = [k for k in matches if len(k) == least_deep]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise ConfigError(f"{key!r} may mean {' or '.join('.'.join(m) for m in matches)}; write one of them in full")
    names = [".".join(k) for k in known]
    raise ConfigError(f"there is no setting {key!r}{_nearest(parts[-1], names)}")


def _nearest(key: str, names: Sequence[str]) -> str:
    least_deep_first = sorted(names, key=lambda name: name.count("."))
    by_leaf = {name.rpartition(".")[2]: name for name in reversed(least_deep_first)}
    close = difflib.get_close_matches(key, by_leaf, n=1, cutoff=0.5)
    return f"; did you mean {by_leaf[close[0]]!r}?" if close else f"; there are {', '.join(names[:12])}, ..."


def _explain(detail: Any, whole: type[ConfigSection]) -> str:
    place = tuple(detail["loc"])
    name = ".".join(str(part) for part in place)
    if detail["type"] == "extra_forbidden":
        section = whole
        for part in place[:-1]:
            if isinstance(part, str) and part in section.model_fields:
                section = _field_section(section, part)
        return f"there is no setting {name!r}{_nearest(str(place[-1]), list(section.model_fields))}"
    message = detail["msg"].removeprefix("Value error, ")
    if detail["type"] == "value_error":
        return f"{name}: {message}" if name else message
    return f"{name} is {detail['input']!r}: {message[0].lower()}{message[1:]}"


def _field_section(section: type[ConfigSection], name: str) -> type[ConfigSection]:
    annotation = section.model_fields[name].annotation
    candidates = [annotation, *get_args(annotation)]
    for candidate in candidates:
        inner = _section_of(candidate)
        if inner is not None:
            return inner
    return section
