"""The command that writes an encoder for other engines."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hbt_ray.cli.evaluation import benchmark_folders
from hbt_ray.cli.options import examples, loading_options
from hbt_ray.config import EvaluateConfig, build, stored_text
from hbt_ray.errors import ConfigError

if TYPE_CHECKING:
    from rich.table import Table

    from hbt_ray.data.types import Benchmark
    from hbt_ray.export import Exported, ExportFormat, ExportPrecision


@click.command(
    epilog=examples(
        "hbt export ~/hbt_runs/faq/model --out faq-onnx",
        "hbt export ~/hbt_runs/faq/model --format onnx --precision int8 \\",
        "    --benchmark xquad-r=data/xquad-r --out faq-onnx",
    )
)
@click.argument("model")
@click.option("--out", required=True, help="Folder for a copy of the model with the exported files.")
@click.option("--format", "formats", multiple=True, type=click.Choice(["onnx", "openvino"]), help="Default: both.")
@click.option("--precision", "precisions", multiple=True, type=click.Choice(["fp32", "int8"]), help="Default: both.")
@click.option(
    "--benchmark",
    "benchmarks",
    multiple=True,
    help="NAME=FOLDER, or embedded, on which mAP is compared language by language. Repeatable.",
)
@click.option("--split", help="As of hbt evaluate: where a benchmark has several, such as small of embedded.")
@loading_options
def export(
    model: str,
    out: str,
    formats: Sequence[ExportFormat],
    precisions: Sequence[ExportPrecision],
    benchmarks: Sequence[str],
    split: str | None,
    pooling: str,
    trust_remote_code: bool,
    query_prefix: str | None,
    passage_prefix: str | None,
) -> None:
    """Write an encoder as ONNX and OpenVINO.

    The folder is one that sentence-transformers loads, with backend="onnx" or "openvino" or without.
    """
    from hbt_ray.api import build_settings

    settings = build_settings(build(EvaluateConfig, {"benchmarks": benchmark_folders(benchmarks), "split": split}))
    from hbt_ray.data.model_files import check_model_exists, check_needs_no_language
    from hbt_ray.export import (
        COPIED,
        FORMATS,
        PRECISIONS,
        check_copy_folder,
        check_exports,
        check_libraries,
        delete_exports,
        export_encoder,
        sample_texts,
    )
    from hbt_ray.utils.atomic_write import atomic_write_text, make_output_folder
    from hbt_ray.utils.digests import file_checksums, with_checksum
    from hbt_ray.utils.terminal_table import print_tables

    formats, precisions = formats or FORMATS, precisions or PRECISIONS
    check_model_exists(model, "MODEL")
    check_needs_no_language(model)
    folder = Path(out).expanduser()
    is_copy = folder.resolve() != Path(model).expanduser().resolve()
    if is_copy:
        check_copy_folder(folder)
    elif pooling != "mean" or query_prefix is not None or passage_prefix is not None:
        raise ConfigError("pooling and prefixes are saved with a copy of the model; write another --out")
    check_libraries(formats, precisions)
    from hbt_ray.evaluation.run_evaluation import load_benchmarks
    from hbt_ray.models.encoder import load_pretrained, save_encoder
    from hbt_ray.models.saved_settings import set_prompts

    loaded = load_benchmarks(settings)
    encoder = load_pretrained(model, pooling, device="cpu", attention="sdpa", trust_remote_code=trust_remote_code)
    set_prompts(encoder, query_prefix, passage_prefix)
    if is_copy:
        make_output_folder(folder)
        atomic_write_text(folder / COPIED, with_checksum({"model": stored_text(model)}))
        before = file_checksums(folder, _weights_in(folder))
        save_encoder(encoder, folder)
        if file_checksums(folder, _weights_in(folder)) != before:
            delete_exports(folder)  # of another model
        for name in ("README.md", "decontaminated.json", "debiasing.json", "training.json"):
            (folder / name).unlink(missing_ok=True)
            if (source := Path(model).expanduser() / name).is_file():
                shutil.copy(source, folder / name)
    files = export_encoder(encoder, folder, formats, precisions)
    texts = sample_texts(loaded)
    found = dict(zip(map(" ".join, files), check_exports(encoder, files.values(), texts, loaded), strict=True))
    print_tables([_vectors_table(found, len(texts)), *(_map_table(found, one) for one in loaded)])
    click.echo(f"model    {folder}")
    for one in found.values():
        click.echo(f"         {one.file.relative_to(folder)}")


def _weights_in(folder: Path) -> list[str]:
    """Return the files of an encoder's weights, below its folder."""
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*.safetensors"))


def _vectors_table(found: dict[str, Exported], texts: int) -> Table:
    from rich.table import Table

    table = Table(title="Exported encoder", caption=f"differences of the vectors of {texts} texts")
    for heading in ("file", "MB", "largest difference", "smallest cosine"):
        table.add_column(heading, justify="left" if heading == "file" else "right")
    for name, one in found.items():
        table.add_row(name, f"{one.megabytes:,.1f}", f"{one.max_difference:.1e}", f"{one.min_cosine:.6f}")
    return table


def _map_table(found: dict[str, Exported], benchmark: Benchmark) -> Table:
    from rich.table import Table

    table = Table(
        title=f"{benchmark.title}: mAP within a language", caption="of the original, and the change of each file"
    )
    table.add_column("language")
    for heading in ("original", *found):
        table.add_column(heading, justify="right")
    languages = next(iter(found.values())).map_by_language[benchmark.name]
    for language, (original, _) in languages.items():
        changes = (one.map_by_language[benchmark.name][language] for one in found.values())
        table.add_row(language, f"{original:.4f}", *(f"{after - before:+.4f}" for before, after in changes))
    return table
