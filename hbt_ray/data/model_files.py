"""What the files of a saved model say about its use, read without loading its weights."""

from __future__ import annotations

import difflib
import errno
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from hbt_ray.config import parse_yaml
from hbt_ray.errors import ConfigError
from hbt_ray.utils.digests import JsonObject, unreadable_file, without_checksum
from hbt_ray.utils.limits import load_json

# Modules of sentence-transformers that work on the vectors of a transformers model, with no other input.
_TRAINABLE = {"Pooling", "Dense", "Normalize", "LayerNorm", "Dropout", "WeightedLayerPooling"}
# Of which a folder with a saved model has one.
_MODEL_FILES = ("config.json", "modules.json", "tokenizer_config.json", "adapter_config.json")
# Families of transformers models whose first position is the one after the padding token's.
_FIRST_POSITION_AFTER_PADDING = {
    "camembert",
    "data2vec-text",
    "ibert",
    "longformer",
    "luke",
    "mluke",
    "mpnet",
    "roberta",
    "roberta-prelayernorm",
    "xlm-roberta",
    "xlm-roberta-xl",
    "xmod",
}

DEBIASING = "debiasing.json"  # how the language was removed from a model's vectors
DEBIASING_METHODS = ("mean", "projection", "leace")
LANGUAGE_MEANS = "language_means.safetensors"  # of method "mean"

_HUB_NAME = re.compile(r"(?:[\w.-]+/)?[\w.-]+", re.ASCII)
_HUB_TIMEOUT_S = 3.0


def check_model_exists(model: str, setting: str) -> None:
    """Check that a model is a folder, or on the hub; a typo in a path is no name to ask the hub for.

    1. A folder is a model if it has a configuration file.
    2. What begins or ends like a path, or is in a folder that exists, is a path.
    3. Other names are on the hub if their files are in its cache, or if the hub says so within 3 seconds.

    Args:
        model: folder or hub name.
        setting: that names it, for the message.

    Raises:
        ConfigError: it is neither, or a file of the folder cannot be read.
    """
    path = Path(model).expanduser()
    way_out = "write the folder of a saved model, or the name of one on the hub"
    if path.is_dir():
        if any((path / name).is_file() for name in _MODEL_FILES):
            for file in sorted(path.rglob("*")):
                if file.is_file() and not os.access(file, os.R_OK):
                    raise unreadable_file(file, os.strerror(errno.EACCES))
            return
        raise ConfigError(f"{setting}: the folder {model!r} holds no saved model, which has a config.json; {way_out}")
    if path.exists():
        raise ConfigError(f"{setting}: {model!r} is a file; write the folder that it is in")
    if _is_path(model):
        siblings = [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []
        close = difflib.get_close_matches(path.name, siblings, n=1)
        hint = f"did you mean {str(path.with_name(close[0]))!r}?" if close else way_out
        raise ConfigError(f"{setting}: there is no folder {model!r}; {hint}")
    fault = _hub_fault(model)
    if fault is not None:
        raise ConfigError(f"{setting}: there is no folder {model!r}, and {fault}; {way_out}")


def _is_path(model: str) -> bool:
    """Return whether a model that is not there can only be a path: no hub name, or inside of a folder that is there."""
    parent, slash, _ = model.partition("/")
    return not _HUB_NAME.fullmatch(model) or parent in (".", "..") or (bool(slash) and Path(parent).is_dir())


def _hub_fault(model: str) -> str | None:
    """Return why a name on the hub cannot be loaded; None if it can be, or the hub's answer does not say."""
    from huggingface_hub import HfApi, constants, try_to_load_from_cache
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HFValidationError, RepositoryNotFoundError

    try:
        if any(isinstance(try_to_load_from_cache(model, name), str) for name in _MODEL_FILES):
            return None
        if constants.HF_HUB_OFFLINE:
            return "it was not downloaded from the hub, which HF_HUB_OFFLINE excludes"
        HfApi().model_info(model, timeout=_HUB_TIMEOUT_S)
    except HFValidationError:
        return "it is no name that the hub can have"
    except GatedRepoError:
        return "the hub gives that model only to users who have accepted its terms: log in with `hf auth login`"
    except RepositoryNotFoundError:
        return "the hub has no such model, or not for you"
    except HfHubHTTPError:
        return None
    except Exception as error:  # of the network: of any class
        reason = " ".join(str(error).split())[:100] or type(error).__name__
        return f"the hub cannot be reached ({reason})"
    return None


def model_file(model: str, name: str, subfolder: str = "", *, local_files_only: bool = False) -> Path | None:
    """Return the path of a file of a model, from a folder or the hub; None if the model has no such file.

    Args:
        model: folder or hub name.
        name: of the file.
        subfolder: of the model, that the file is in.
        local_files_only: of a name on the hub, find only what was downloaded.
    """
    from transformers.utils import cached_file

    try:
        path = cached_file(
            model,
            name,
            subfolder=subfolder,
            local_files_only=local_files_only,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_gated_repo=False,
            _raise_exceptions_for_connection_errors=False,
        )
    except (OSError, ValueError):  # neither a folder nor a name on the hub: loading the model says so
        return None
    return None if path is None else Path(path)


def read_model_file(model: str, name: str, subfolder: str = "", *, local_files_only: bool = False) -> Any:
    """Read a JSON file of a model; arguments as of `model_file`.

    Returns:
        Its content; None if the model has no such file.

    Raises:
        ConfigError: it is not JSON.
    """
    path = model_file(model, name, subfolder, local_files_only=local_files_only)
    if path is None:
        return None
    try:
        return load_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"the file {path} of the model {model!r} cannot be read ({error}); save the model again"
        ) from None


def read_debiasing(model: str, *, local_files_only: bool = False) -> JsonObject | None:
    """Read how the language was removed from a model's vectors (`hbt debias`); None if it was not.

    Args:
        model: folder or hub name.
        local_files_only: of a name on the hub, read only what was downloaded.

    Raises:
        ConfigError: the file is not as it was written.
    """
    file = model_file(model, DEBIASING, local_files_only=local_files_only)
    if file is None and (Path(model) / LANGUAGE_MEANS).exists():
        raise damaged_debiasing(Path(model) / DEBIASING, FileNotFoundError("there is no such file"))
    if file is None:
        return None
    try:
        record = without_checksum(file.read_bytes())
        languages = record["languages"]
        if (
            record["method"] not in DEBIASING_METHODS
            or not isinstance(languages, list)
            or not all(map(_is_text, languages))
        ):
            raise ValueError("it names no method or no languages")
        if record["method"] == "mean" and not _is_text(record["means"]):
            raise ValueError("it has no checksum of the means")
        [one["name"] for one in record["corpora"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise damaged_debiasing(file, error) from None
    return record


def damaged_debiasing(file: Path, error: Exception) -> ConfigError:
    """Return the error for a file of `hbt debias` that is not as it was written."""
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return ConfigError(f"{file} is not as `hbt debias` wrote it ({reason}); run hbt debias again")


def check_needs_no_language(model: str) -> None:
    """Raise ConfigError if a model's vectors are complete only with the language of each text."""
    record = read_debiasing(model)
    if record is not None and record["method"] == "mean":
        raise ConfigError(
            f"the model {model!r} needs the language of each text, whose mean vector is subtracted, and only hbt "
            "evaluate gives it; write a model of `hbt debias --method projection` or the one that it was made from"
        )


def describe_debiasing(model: str) -> str | None:
    """Describe in a line how the language was removed from a model's vectors; None if it was not.

    Args:
        model: folder, or hub name of a model that was loaded before.
    """
    record = read_debiasing(model, local_files_only=True)
    if record is None:
        return None
    corpora = ", ".join(str(one["name"]) for one in record["corpora"])
    return f"{record['method']} of {len(record['languages'])} languages, fitted on {corpora}"


def base_model_of(model: str) -> str | None:
    """Return the encoder that a saved model was trained from; None where its files do not say.

    The first that there is of: the settings of the run that left it (`run.yaml` next to its folder), the model card's
    `base_model`, and the path in the configuration of its transformers model.
    """
    folder = Path(model)
    trained = _mapping(_mapping(_yaml_of(folder.parent / "run.yaml")).get("model")) if folder.is_dir() else {}
    if "path" in trained:
        return str(trained["path"] or "random weights")
    card = _mapping(_yaml_of(folder / "README.md")).get("base_model") if folder.is_dir() else None
    config = _mapping(read_model_file(model, "config.json", local_files_only=True))  # the model was loaded before
    named = card or config.get("_name_or_path")
    named = named[0] if isinstance(named, list) and named else named
    return named if isinstance(named, str) and named not in ("", model) else None


def _yaml_of(file: Path) -> object:
    """Read a YAML file, or the YAML that a Markdown file begins with. Return None if there is none."""
    try:
        text = file.read_text(encoding="utf-8")
        if file.suffix == ".md":
            start, _, text = text.partition("---\n")
            text = "" if start else text.partition("\n---")[0]
        return parse_yaml(text, file)
    except (OSError, ValueError):  # ConfigError is a ValueError
        return None


def untrusted_code(model: str) -> ConfigError:
    """Return the error for a model that is loaded by code in its repository, which the user has not allowed."""
    return ConfigError(
        f"the model {model!r} has code in its repository, which is not run; if you trust it, write "
        "model.trust_remote_code=true, or --trust-remote-code"
    )


def check_is_dense(model: str) -> None:
    """Raise ConfigError if a folder was saved by another class than SentenceTransformer.

    sentence-transformers would replace the modules of such a folder by mean pooling: another model than the saved one.
    """
    kind = _mapping(read_model_file(model, "config_sentence_transformers.json")).get("model_type")
    if kind not in (None, "SentenceTransformer"):
        raise ConfigError(
            f"the model {model!r} is a {kind}, not an encoder of one vector for each text; "
            "write the folder or hub name of a SentenceTransformer or of a transformers model"
        )


def check_trainable(path: str, prefixes: Iterable[str | None]) -> None:
    """Check that training computes the vectors as the saved model does: from token ids, by the same modules.

    Args:
        path: folder or hub name.
        prefixes: of queries and passages.

    Raises:
        ConfigError: a module needs something else than token ids, the pooling excludes the prefixes, or vectors need
            the language of their text.
    """
    check_is_dense(path)
    check_needs_no_language(path)
    modules = read_model_file(path, "modules.json")
    if not isinstance(modules, list) or not modules:
        return
    types = [str(_mapping(module).get("type")) for module in modules]
    names = [name.rpartition(".")[2] for name in types]
    unknown = [
        name
        for number, name in enumerate(names)
        if (name != "Transformer" if number == 0 else name not in _TRAINABLE)
        or not types[number].startswith("sentence_transformers.")
    ]
    if unknown:
        raise ConfigError(
            f"the model {path!r} has the module {unknown[0]}, which training does not support; write a model.path of "
            f"a transformers model with {', '.join(sorted(_TRAINABLE))} (hbt evaluate takes this one)"
        )
    poolings = [
        _mapping(read_model_file(path, "config.json", str(_mapping(module).get("path"))))
        for module, name in zip(modules, names, strict=True)
        if name == "Pooling"
    ]
    if any(prefixes) and any(one.get("include_prompt") is False for one in poolings):
        raise ConfigError(
            f"the pooling of the model {path!r} excludes prompts (include_prompt), which training does not support; "
            "write text.query_prefix='' and text.passage_prefix='', or another model.path"
        )


def lowercases(model: str, subfolder: str) -> bool:
    """Return True if sentence-transformers lowercases the texts of a model, whatever its tokenizer does."""
    return bool(_mapping(read_model_file(model, "sentence_bert_config.json", subfolder)).get("do_lower_case"))


def max_positions(config: object) -> int | None:
    """Return the maximum tokens of a text by a transformers configuration's positions; None: no maximum.

    Positions of the RoBERTa family start after the padding token's, so 514 of them are for 512 tokens.
    """
    positions = getattr(config, "max_position_embeddings", None)
    if not isinstance(positions, int) or positions < 1:  # XLNet has -1
        return None
    return positions - first_position(config)


def first_position(config: object) -> int:
    """Return the position of a text's first token by a transformers configuration."""
    if getattr(config, "model_type", None) in _FIRST_POSITION_AFTER_PADDING:
        return int(getattr(config, "pad_token_id", None) or 0) + 1
    return 0


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, Mapping) else {}


def _is_text(value: object) -> bool:
    return isinstance(value, str)
