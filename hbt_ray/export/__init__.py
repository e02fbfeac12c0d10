"""Encoders as ONNX and OpenVINO files, and what these change in vectors and mAP. Needs the extra `export`."""

from hbt_ray.export.check import Exported, check_exports, sample_texts
from hbt_ray.export.conversion import (
    COPIED,
    FORMATS,
    PRECISIONS,
    ExportFormat,
    ExportPrecision,
    check_copy_folder,
    check_libraries,
    delete_exports,
    export_encoder,
    with_exported,
)

__all__ = [
    "COPIED",
    "FORMATS",
    "PRECISIONS",
    "ExportFormat",
    "ExportPrecision",
    "Exported",
    "check_copy_folder",
    "check_exports",
    "check_libraries",
    "delete_exports",
    "export_encoder",
    "sample_texts",
    "with_exported",
]
