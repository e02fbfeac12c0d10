"""Dataclasses of arrays and scalars as Arrow tables of one row, for transport between processes."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any, TypeVar

import pyarrow as pa

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")


def dataclass_to_arrow(value: DataclassInstance) -> pa.Table:
    """Convert a dataclass to a table of one row with a column for each field.

    Fields are numbers, strings or one-dimensional arrays.
    """
    return pa.table({field.name: pa.array([getattr(value, field.name)]) for field in fields(value)})


def dataclass_from_arrow(table: pa.Table, dataclass_type: type[T]) -> T:
    """Convert a table of one row to a dataclass. Arrays are views of the table's memory, without a copy."""
    values: dict[str, Any] = {}
    for field in fields(dataclass_type):
        scalar = table.column(field.name)[0]
        is_list = isinstance(scalar, pa.ListScalar)
        values[field.name] = scalar.values.to_numpy(zero_copy_only=True) if is_list else scalar.as_py()
    return dataclass_type(**values)
