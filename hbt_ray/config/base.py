"""The base class of all settings."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

Fraction = Annotated[float, Field(ge=0, le=1)]
_TRUTH_VALUES = ("true", "false", "yes", "no", "on", "off")  # YAML 1.1's words
Settings = dict[str, Any]  # plain values by key, as YAML has them


class ConfigSection(BaseModel):
    """A frozen section of a configuration that refuses unknown keys, and numbers for truth values or the reverse."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    @field_validator("*", mode="before")
    @classmethod
    def _check_kind(cls, value: object, info: ValidationInfo) -> object:
        fault = kind_fault(value, cls.model_fields[str(info.field_name)].annotation)
        if fault is not None:
            raise ValueError(fault)
        return value

    def fingerprint(self) -> str:
        """Return 16 hex digits that change with any setting of this section."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def kind_fault(value: object, annotation: object) -> str | None:
    """Return why a value is of another kind than its setting, where pydantic would convert it; None if it is not.

    pydantic takes `true` for 1, and 1 or `t` for `true`. A text that spells a number is one, because environment
    variables are texts.

    >>> kind_fault(True, float), kind_fault(1, bool | None), kind_fault(1, float), kind_fault("no", bool)
    ('true is no number', '1 is neither true nor false', None, None)
    """
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, UnionType):
        faults = [kind_fault(value, choice) for choice in arguments if choice is not NoneType]
        return None if value is None or None in faults else faults[-1 if isinstance(value, list) else 0]
    if origin is Annotated:
        return kind_fault(value, arguments[0])
    if origin is tuple and isinstance(value, str | int | float):
        return f"{value!r} is no list; write [{value}]"
    if origin is tuple and isinstance(value, list | tuple):
        kinds = arguments[:1] * len(value) if arguments[-1] is Ellipsis else arguments
        return next((fault for pair in zip(value, kinds, strict=False) if (fault := kind_fault(*pair))), None)
    if origin is dict and isinstance(value, Mapping):
        return next((fault for inner in value.values() if (fault := kind_fault(inner, arguments[1]))), None)
    if annotation in (int, float) and isinstance(value, bool | list):
        return f"{str(value).lower()} is no number"
    if annotation is bool and str(value).lower() not in _TRUTH_VALUES:
        return f"{value!r} is neither true nor false"
    return None
