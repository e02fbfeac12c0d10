"""Reading settings from YAML files and `key=value` overrides, with error messages that name the way out.

The key of an override may be shortened to its last components (`alpha=0.6` for `mix.alpha`) when they name one setting,
or one that is less deep than the others (`mix.alpha`, not `model.lora.alpha`).

OmegaConf is not used: its `${oc.env:NAME}` is not the `${NAME}` of existing files, and it knows no shortened keys.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from hbt_ray.config.base import ConfigSection, Settings
from hbt_ray.config.run import PretrainRunConfig, RunConfig
from hbt_ray.config.stored import expand_environment, resolved_path
from hbt_ray.config.yaml_text import parse_yaml, text_value
from hbt_ray.errors import ConfigError
from hbt_ray.utils.limits import MAX_CONFIG_BYTES, limit

CONFIGS = Path(__file__).parents[1] / "configs"  # files of settings that come with the package

_UNION_MEMBER = re.compile(r"constrained-\w+|tuple\[.*\]")

S = TypeVar("S", bound=ConfigSection)
C = TypeVar("C", bound=RunConfig | PretrainRunConfig)


def load_config(path: str | Path | None = None, overrides: Sequence[str] = ()) -> RunConfig:
    """Load a `RunConfig`; see `load`."""
    return load(RunConfig, path, overrides)


def load(config_type: type[S], path: str | Path | None = None, overrides: Sequence[str] = ()) -> S:
    """Load settings from a YAML file and apply `key=value` overrides, whose values are texts or YAML.

    Args:
        config_type: which settings the file holds.
        path: the file, or the name of a configuration of the package, such as `smoke`; None: all defaults.
        overrides: applied in order; keys may be shortened, and a text is taken as it is written.

    Raises:
        ConfigError: the file is missing or not a mapping, a key is unknown, or a value is out of range.
    """
    data = {} if path is None else expand_environment(read_yaml(path))
    for override in overrides:
        key, text = split_override(override)
        _override(data, full_key(key, config_type), text, config_type)
    return build(config_type, data)


def read_yaml(path: str | Path) -> Settings:
    """Return the settings of a YAML file as they are written, with `${NAME}`.

    Args:
        path: a file, or the name of a configuration of the package, such as `smoke`.

    Raises:
        ConfigError: the file is missing or not a mapping.
    """
    try:
        with config_file(path).open(encoding="utf-8") as file:
            text = file.read(limit(MAX_CONFIG_BYTES) + 1)
    except OSError as error:
        raise ConfigError(f"cannot read the configuration {str(path)!r}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from None
    loaded = parse_yaml(text, path)
    if not isinstance(loaded, dict | None):
        raise ConfigError(f"{path} must hold settings as 'key: value', not a {type(loaded).__name__}")
    return loaded or {}


def split_override(override: str) -> tuple[str, str]:
    """Split `key=value`. Raise ConfigError if there is no `=`."""
    key, equals, text = override.partition("=")
    if not equals:
        is_path = Path(override).expanduser().exists()
        hint = f"; `hbt inspect {override}` prints the settings for these files" if is_path else ""
        raise ConfigError(f"{override!r} is not an override; write key=value, such as alpha=0.6{hint}")
    return key, text


def _override(data: Settings, key: Sequence[str], text: str, config_type: type[ConfigSection]) -> None:
    """Set the setting of a full key to the value of an override: a text as it is written, else YAML."""
    is_text, optional = _accepts_text(_type_of_setting(config_type, key))
    value = text_value(text, optional) if is_text else parse_yaml(text, f"the value of {'.'.join(key)}={text}")
    set_key(data, key, expand_environment(value, ".".join(key)))


def _type_of_setting(section: type[ConfigSection], key: Sequence[str]) -> Any:
    """Return the annotation of a setting; of an entry of a mapping, that of its values; None for an unknown one."""
    name, *rest = key
    field = section.model_fields.get(name)
    annotation = None if field is None else field.annotation
    if not rest or annotation is None:
        return annotation
    if get_origin(annotation) is dict:
        return get_args(annotation)[1]
    inner = _section_of(annotation)
    return None if inner is None else _type_of_setting(inner, rest)


def _accepts_text(annotation: object) -> tuple[bool, bool]:
    """Return whether a setting is a text or one of several words, and whether it may be null."""
    choices = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    words = [choice for choice in choices if choice is not NoneType]
    is_text = bool(words) and all(
        word is str or (get_origin(word) is Literal and all(isinstance(one, str) for one in get_args(word)))
        for word in words
    )
    return is_text, NoneType in choices


def load_with_nested_run(
    path: str | Path, overrides: Sequence[str], config_type: type[ConfigSection], preset: str | None = None
) -> Settings:
    """Load the settings of a search or study, which hold a run's settings under `run`, and apply overrides.

    1. Read the file. Its section `presets` has alternative settings by name.
    2. Merge the settings of the chosen preset into the others.
    3. Apply the overrides. One of the run begins with `run.`, and the key after it may be shortened; other keys are
       written in full.

    Args:
        path: the file.
        overrides: applied in order.
        config_type: of the search or study.
        preset: name of the preset; None: none.

    Raises:
        ConfigError: the file cannot be read, has no such preset, or an override is malformed or names no setting of
            the run.
    """
    data = read_yaml(path)
    presets = data.pop("presets", None) or {}
    if not isinstance(presets, dict) or not all(isinstance(settings, dict) for settings in presets.values()):
        raise ConfigError(f"presets of {path} must hold settings by name, such as {{small: {{seeds: [0]}}}}")
    if preset is not None and preset not in presets:
        raise ConfigError(f"there is no preset {preset!r} in {path}; it has {', '.join(presets) or 'none'}")
    data = expand_environment(_merged(data, presets.get(preset, {})))
    run = data.setdefault("run", {})
    if not isinstance(run, dict):
        raise ConfigError(f"run of {path} must hold settings as 'key: value', not a {type(run).__name__}")
    for override in overrides:
        key, text = split_override(override)
        if key.startswith("run."):
            _override(run, full_key(key.removeprefix("run.")), text, RunConfig)
        else:
            _override(data, key.split("."), text, config_type)
    return data


def _merged(settings: Settings, changes: Settings) -> Settings:
    """Return nested settings with other values, of which mappings are merged and everything else is replaced.

    null removes a setting, which then has its default.

    >>> _merged({"a": {"b": 1, "c": 2}, "d": [1], "e": 0}, {"a": {"b": 3}, "d": [2], "e": None})
    {'a': {'b': 3, 'c': 2}, 'd': [2]}
    """
    both = {
        key: _merged(settings[key], value) if isinstance(value, dict) and isinstance(settings.get(key), dict) else value
        for key, value in changes.items()
    }
    return {key: value for key, value in (settings | both).items() if key not in both or value is not None}


def config_file(path: str | Path) -> Path:
    """Return the file of a configuration: the path itself, or for a bare name the package's file of that name.

    Raises:
        ConfigError: neither exists.
    """
    file = Path(path).expanduser()
    if file.exists():
        return file
    names = sorted(packaged.stem for packaged in CONFIGS.glob("*.yaml"))
    if str(path) in names:
        return CONFIGS / f"{path}.yaml"
    hint = f"write --config {file.stem}" if file.stem in names else f"the package has {', '.join(names)}"
    raise ConfigError(f"cannot read the configuration {str(path)!r}: No such file or directory; {hint}")


def set_key(data: Settings, key: Sequence[str], value: object) -> None:
    """Set a value in nested settings; create the sections on the way."""
    *parents, leaf = key
    section = data
    for parent in parents:
        if not isinstance(section.get(parent), dict):
            section[parent] = {}
        section = section[parent]
    section[leaf] = value


def replace_in(config: S, key: str, value: object) -> S:
    """Return a copy with another value of a setting, such as `train.checkpoint_every`. The value is not checked."""
    name, _, rest = key.partition(".")
    return config.model_copy(update={name: replace_in(getattr(config, name), rest, value) if rest else value})


def with_settings(config: S, settings: Mapping[str, object]) -> S:
    """Return a copy with other values of some settings, by their full keys, and check them.

    Raises:
        ConfigError: a key is unknown or a value is out of range.
    """
    data = config.model_dump(mode="json")
    for key, value in settings.items():
        set_key(data, key.split("."), value)
    return build(type(config), data)


def build_config(data: Settings) -> RunConfig:
    """Build a `RunConfig` from plain values; see `build`."""
    return build(RunConfig, data)


def build(section: type[S], data: Settings) -> S:
    """Build a section from plain values and check it.

    Raises:
        ConfigError: a value is wrong; the message says which and what to write.
    """
    try:
        return section.model_validate(data)
    except ValidationError as error:
        first = {_location(detail): detail for detail in reversed(error.errors())}  # of those of one union
        faults = [_describe_error(location, detail, section) for location, detail in reversed(first.items())]
        raise ConfigError("; ".join(faults)) from None


def with_absolute_paths(config: C) -> C:
    """Make the paths that exist absolute, so that other processes find them; hub names stay."""
    sets = {name: absolute_path(folder) for name, folder in config.prepare.evaluation_sets.items()}
    config = replace_in(config, "corpora", tuple(replace_in(c, "path", absolute_path(c.path)) for c in config.corpora))
    config = replace_in(config, "model.path", absolute_path(config.model.path))
    config = replace_in(config, "prepare.evaluation_sets", sets)
    if isinstance(config, RunConfig):
        benchmarks = {name: absolute_path(folder) for name, folder in config.evaluate.benchmarks.items()}
        config = replace_in(config, "evaluate.benchmarks", benchmarks)
        if config.loss.distillation is not None:
            teacher = absolute_path(config.loss.distillation.teacher)
            config = replace_in(config, "loss.distillation.teacher", teacher)
    return config


def absolute_path(path: str | None) -> str | None:
    """Return an absolute path for one that exists; return anything else unchanged."""
    return resolved_path(path) if path and Path(path).expanduser().exists() else path


def flatten(config: ConfigSection) -> Settings:
    """Return every setting by its dotted key, for comparison."""
    return flatten_settings(config.model_dump(mode="json"))


def flatten_settings(settings: Mapping[str, object]) -> Settings:
    """Return nested plain settings by their dotted keys."""
    flat: Settings = {}
    for key, value in settings.items():
        _flatten_into(flat, key, value)
    return flat


def _flatten_into(flat: Settings, key: str, value: object) -> None:
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            _flatten_into(flat, f"{key}.{name}", inner)
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        for index, inner in enumerate(value):
            _flatten_into(flat, f"{key}.{inner.get('name') or index}", inner)
    else:
        flat[key] = value


def _section_of(annotation: object) -> type[ConfigSection] | None:
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, ConfigSection):
            return candidate
    return None


def setting_keys(
    section: type[ConfigSection], prefix: tuple[str, ...] = (), *, of_entries: bool = False
) -> Iterator[tuple[str, ...]]:
    """Yield the full keys of all settings, sections before what they hold.

    Args:
        section: whose settings.
        prefix: key of the section.
        of_entries: also those of a list's entries, which have documentation but are no keys of overrides.
    """
    for name, field in section.model_fields.items():
        yield (*prefix, name)
        inner = _section_of(field.annotation)
        if inner is not None and (of_entries or get_origin(field.annotation) is not tuple):
            yield from setting_keys(inner, (*prefix, name), of_entries=of_entries)


def full_key(key: str, config_type: type[ConfigSection] = RunConfig) -> tuple[str, ...]:
    """Return the full key for one that may be shortened to its last components.

    1. A key that is complete, or that names an entry of a mapping of benchmarks, is itself.
    2. Otherwise it is the setting whose last components are the key's; of several, the least deep one.

    Raises:
        ConfigError: there is no such setting, or several are equally deep.
    """
    parts = tuple(key.split("."))
    known = list(setting_keys(config_type))
    if parts in known:
        return parts
    if any(parts[: len(k)] == k and k[-1] in {"evaluation_sets", "benchmarks"} for k in known):
        return parts
    if parts[0] == "corpora":
        raise ConfigError("corpora is a list; write all of it, such as corpora='[{format: jsonl, path: FOLDER}]'")
    matches = [k for k in known if k[-len(parts) :] == parts]
    min_depth = min(map(len, matches), default=0)
    matches = [k for k in matches if len(k) == min_depth]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise ConfigError(f"{key!r} may mean {' or '.join('.'.join(m) for m in matches)}; write one of them in full")
    names = [".".join(k) for k in known]
    raise ConfigError(f"there is no setting {key!r}{_suggest(parts[-1], names)}")


def _suggest(key: str, names: Sequence[str]) -> str:
    by_depth = sorted(names, key=lambda name: name.count("."))
    by_leaf = {name.rpartition(".")[2]: name for name in reversed(by_depth)}
    close = difflib.get_close_matches(key, by_leaf, n=1, cutoff=0.5)
    return f"; did you mean {by_leaf[close[0]]!r}?" if close else f"; there are {', '.join(names[:12])}, ..."


def _location(detail: ErrorDetails) -> tuple[int | str, ...]:
    """Return where an error is, without pydantic's names of a union's members."""
    return tuple(part for part in detail["loc"] if not _UNION_MEMBER.fullmatch(str(part)))


def _describe_error(location: Sequence[int | str], detail: ErrorDetails, whole: type[ConfigSection]) -> str:
    name = ".".join(str(part) for part in location)
    if detail["type"] == "extra_forbidden":
        section = whole
        for part in location[:-1]:
            if isinstance(part, str) and part in section.model_fields:
                section = _field_section(section, part)
        return f"there is no setting {name!r}{_suggest(str(location[-1]), list(section.model_fields))}"
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
