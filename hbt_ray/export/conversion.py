"""The transformer of an encoder as an ONNX or OpenVINO file, in fp32 or with int8 weights.

Files have the names that sentence-transformers' backends look for. Tokenizer, pooling and prompts stay as they are.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor, nn
from transformers import PretrainedConfig
from transformers.modeling_outputs import BaseModelOutput

from hbt_ray.errors import ConfigError
from hbt_ray.models.packed_attention import transformer_of
from hbt_ray.utils.atomic_write import atomic_files
from hbt_ray.utils.progress import stage

ExportFormat = Literal["onnx", "openvino"]
ExportPrecision = Literal["fp32", "int8"]
FORMATS: tuple[ExportFormat, ...] = get_args(ExportFormat)
PRECISIONS: tuple[ExportPrecision, ...] = get_args(ExportPrecision)
_FILES = {
    ("onnx", "fp32"): "onnx/model.onnx",
    ("onnx", "int8"): "onnx/model_qint8.onnx",
    ("openvino", "fp32"): "openvino/openvino_model.xml",
    ("openvino", "int8"): "openvino/openvino_model_qint8_quantized.xml",
}
_OPSET = 20
COPIED = "exported.json"  # in the folder of a copy of a model: which model was exported

# Of a batch, by the names of a transformer's inputs: (texts, tokens) each.
Arrays = Mapping[str, np.ndarray]


def export_encoder(
    encoder: SentenceTransformer, folder: Path, formats: Sequence[ExportFormat], precisions: Sequence[ExportPrecision]
) -> dict[tuple[ExportFormat, ExportPrecision], Path]:
    """Write the transformer of an encoder in each format and precision.

    1. Trace it to ONNX in fp32; the other files are made of that one.
    2. int8 of ONNX: weights and, for each batch, activations. int8 of OpenVINO: weights.

    Args:
        encoder: in fp32 on the CPU, without packed attention.
        folder: of the encoder.
        formats: to write.
        precisions: of each.

    Returns:
        The files, by format and precision.

    Raises:
        ConfigError: a library is missing, or the transformer cannot be traced.
    """
    check_libraries(formats, precisions)
    wanted = {(one, precision): folder / _FILES[one, precision] for one in formats for precision in precisions}
    for file in wanted.values():
        file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        traced = Path(scratch, "model.onnx")
        # 1.
        with stage("tracing the encoder to ONNX"):
            _write_onnx(encoder, traced)
        # 2.
        for (one, precision), file in wanted.items():
            # OpenVINO's weights are in a second file.
            with stage(f"writing {one}, {precision}"), atomic_files(file.parent, last=file.name) as partial:
                if one == "openvino":
                    _write_openvino(traced, partial / file.name, precision)
                elif precision == "int8":
                    _quantize_onnx(traced, partial / file.name)
                else:
                    shutil.copyfile(traced, partial / file.name)
    return wanted


def check_copy_folder(folder: Path) -> None:
    """Raise ConfigError if the folder of a copy holds something other than an earlier export."""
    if folder.exists() and not (folder.is_dir() and ((folder / COPIED).is_file() or not any(folder.iterdir()))):
        raise ConfigError(f"{folder} holds something other than an earlier export; write another --out")


def delete_exports(folder: Path) -> None:
    """Delete the files of an earlier export, in any format and precision."""
    for name in sorted({Path(file).parts[0] for file in _FILES.values()}):
        shutil.rmtree(folder / name, ignore_errors=True)


def check_libraries(formats: Sequence[ExportFormat], precisions: Sequence[ExportPrecision]) -> None:
    """Raise ConfigError if a library that these formats need is not installed."""
    needed = ["onnx", "onnxscript"]
    needed += ["onnxruntime"] if "onnx" in formats else []
    needed += ["openvino"] if "openvino" in formats else []
    needed += ["nncf"] if "openvino" in formats and "int8" in precisions else []
    for name in needed:
        try:
            with _quiet():
                __import__(name)
        except ImportError:
            raise ConfigError(f"{name} is not installed; run pip install 'hbt_ray[export]'") from None


def with_exported(encoder: SentenceTransformer, file: Path) -> SentenceTransformer:
    """Return a copy of an encoder whose transformer is the one in an exported file.

    Args:
        encoder: on the CPU.
        file: from `export_encoder`.
    """
    transformer = transformer_of(encoder)
    run = _open_onnx(file) if file.suffix == ".onnx" else _open_openvino(file)
    exported = copy.copy(encoder)
    exported._modules = dict(encoder._modules)
    first = copy.copy(encoder[0])
    first._modules = {**encoder[0]._modules, "model": _ExportedTransformer(run, transformer.config)}
    exported._modules["0"] = first
    return exported


class _ExportedTransformer(nn.Module):
    """Computes the last hidden states with an exported file."""

    def __init__(self, run: Callable[[Arrays], np.ndarray], config: PretrainedConfig) -> None:
        super().__init__()
        self.run, self.config = run, config

    def forward(self, **inputs: object) -> BaseModelOutput:
        arrays = {name: value.numpy() for name, value in inputs.items() if isinstance(value, Tensor)}
        return BaseModelOutput(last_hidden_state=torch.from_numpy(self.run(arrays)))


class _HiddenStates(nn.Module):
    """A transformer whose result is the tensor of its last hidden states; tensors are given in order of their names."""

    def __init__(self, transformer: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.transformer, self.names = transformer, names

    def forward(self, *tensors: Tensor) -> Tensor:
        given = dict(zip(self.names, tensors, strict=True))
        states: Tensor = self.transformer(**given, return_dict=True).last_hidden_state
        return states


def _write_onnx(encoder: SentenceTransformer, file: Path) -> None:
    features = encoder.preprocess(["a text", "another and longer text"])
    inputs = {name: value for name, value in features.items() if isinstance(value, Tensor) and value.ndim == 2}
    names = tuple(inputs)
    axes = {0: torch.export.Dim("texts", max=2**20), 1: torch.export.Dim("tokens", max=2**20)}
    traced = _HiddenStates(transformer_of(encoder), names).eval()
    try:
        with _quiet(), torch.inference_mode():
            torch.onnx.export(
                traced,
                tuple(inputs.values()),
                str(file),
                input_names=list(names),
                output_names=["last_hidden_state"],
                dynamic_shapes=(tuple(axes for _ in names),),
                opset_version=_OPSET,
                dynamo=True,
                external_data=False,
                verbose=False,
            )
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(
            f"the encoder cannot be exported ({type(error).__name__}: {reason}); export one of another family"
        ) from error


def _quantize_onnx(source: Path, file: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with _quiet():
        quantize_dynamic(str(source), str(file), weight_type=QuantType.QInt8, per_channel=True)


def _write_openvino(source: Path, file: Path, precision: ExportPrecision) -> None:
    import openvino

    with _quiet():
        model = openvino.convert_model(str(source))
        if precision == "int8":
            import nncf

            model = nncf.compress_weights(model)
        openvino.save_model(model, str(file), compress_to_fp16=False)


def _open_onnx(file: Path) -> Callable[[Arrays], np.ndarray]:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]
    return lambda arrays: np.asarray(session.run(None, {name: arrays[name] for name in names})[0])


def _open_openvino(file: Path) -> Callable[[Arrays], np.ndarray]:
    import openvino

    compiled = openvino.compile_model(str(file), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    names = [one.get_any_name() for one in compiled.inputs]
    return lambda arrays: np.array(compiled({name: arrays[name] for name in names})[0])


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporters' warnings and log lines, which are about their own parts, from the user."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
