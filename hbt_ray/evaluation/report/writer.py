"""The files of a report: JSON, Parquet, CSV, TREC's formats, Markdown, HTML and figures."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from hbt_ray import __version__
from hbt_ray.config import EvaluateConfig
from hbt_ray.errors import StorageError
from hbt_ray.evaluation.evaluator import EvalReport, RankedList
from hbt_ray.evaluation.report.figures import bias_figure, matrix_figure, projection_figure
from hbt_ray.evaluation.report.markdown import markdown_lines
from hbt_ray.evaluation.report.mteb_format import mteb_model_meta, mteb_result
from hbt_ray.evaluation.report.page import report_page
from hbt_ray.evaluation.report.reader import PASSAGES, PER_QUERY, QUESTIONS, REPORT
from hbt_ray.utils.atomic_write import atomic_files
from hbt_ray.utils.digests import file_checksums, with_checksum
from hbt_ray.utils.html_page import PAGE
from hbt_ray.utils.plotting import save_figure

_OPTIONAL = ("model_meta.json", "rejects.jsonl", "matrix.png", "bias.png", "projection.png")


def make_folder(folder: Path) -> None:
    """Make the folder of a report. Called before an evaluation, so that it does not fail after hours.

    Raises:
        StorageError: the folder cannot be written.
    """
    with report_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)


@contextlib.contextmanager
def report_errors(folder: Path) -> Iterator[None]:
    """Raise StorageError for an OSError of the block: the report cannot be written to the folder."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"the report cannot be written to {folder} ({error.strerror or error}); "
            "free disk space or write another --out"
        ) from error


def write_report(
    report: EvalReport, out_dir: str | Path, model: object = None, settings: EvaluateConfig | None = None
) -> Path:
    """Write a report's files to a folder, which is made if needed; see evaluation/README.md for the files.

    An earlier report in the folder is replaced in one step: if writing fails, it remains. `report.json` has the
    checksums of the other files and is put in place last, so its existence means that they are those of one report.

    Args:
        report: the result of an evaluation.
        out_dir: the folder.
        model: description of the model, as JSON; left out where None.
        settings: of the evaluation; left out where None.

    Returns:
        The folder.

    Raises:
        StorageError: the folder cannot be written.
    """
    folder = Path(out_dir)
    make_folder(folder)
    with report_errors(folder), atomic_files(folder, last=REPORT, replaced=_OPTIONAL) as partial:
        _write_files(report, partial, model, settings)
    return folder


def _write_files(report: EvalReport, folder: Path, model: object, settings: EvaluateConfig | None) -> None:
    pq.write_table(report.per_query, folder / PER_QUERY)
    pq.write_table(report.results.questions, folder / QUESTIONS, compression="zstd")
    pq.write_table(report.results.passages, folder / PASSAGES, compression="zstd")
    _write_lines(folder / "matrix.csv", _matrix_lines(report))
    _write_lines(folder / "run.trec", _run_lines(report.run))
    _write_lines(folder / "qrels.trec", _qrels_lines(report.judgements))
    with_figures = settings is None or settings.figures
    if with_figures:
        for name, figure in (
            ("matrix", matrix_figure(report)),
            ("bias", bias_figure(report)),
            ("projection", projection_figure(report.title, report.sample)),
        ):
            save_figure(figure, folder / f"{name}.png")
    _write_lines(folder / "report.md", markdown_lines(report, with_figures))
    if report.rejects:
        _write_lines(
            folder / "rejects.jsonl", (json.dumps(reject.record(), ensure_ascii=False) for reject in report.rejects)
        )
    (folder / "mteb.json").write_text(json.dumps(mteb_result(report, model), indent=1) + "\n", encoding="utf-8")
    if isinstance(model, dict):
        meta = json.dumps(mteb_model_meta(report, model), indent=1)
        (folder / "model_meta.json").write_text(meta + "\n", encoding="utf-8")
    summary: dict[str, object] = {
        "benchmark": report.benchmark,
        "fingerprint": report.fingerprint,
        "split": report.split,
        **({} if model is None else {"model": model}),
        **({} if settings is None else {"settings": settings.model_dump(mode="json", exclude={"benchmarks"})}),
        **({"index_recall@10": report.index_recall} if report.index_recall else {}),
        **({"notes": report.notes} if report.notes else {}),
        **({"warnings": report.warnings} if report.warnings else {}),
        **({} if report.decontaminated is None else {"decontaminated": report.decontaminated}),
        "version": __version__,
        "date": report.date,
        "metrics": report.metrics,
        "intervals": report.intervals,
        "run.trec": report.run_file_metrics,
        "counts": report.counts,
        "rejects": dict(Counter(reject.reason for reject in report.rejects)),
        "seconds": {"embed": report.embed_seconds, "rank": report.rank_seconds},
    }
    page = report_page(report, summary, folder / "projection.png" if with_figures else None)
    (folder / PAGE).write_text(page, encoding="utf-8")
    summary["files"] = file_checksums(folder, sorted(path.name for path in folder.iterdir()))
    (folder / REPORT).write_text(with_checksum(summary), encoding="utf-8")


def _matrix_lines(report: EvalReport) -> Iterator[str]:
    yield ",".join(("question_language", *report.languages))
    for language, row in zip(report.languages, report.matrix, strict=True):
        yield ",".join((language, *("" if np.isnan(value) else repr(float(value)) for value in row)))


def _run_lines(run: RankedList) -> Iterator[str]:
    for query_id, passage_indices, scores in zip(
        run.query_ids, run.passage_indices.tolist(), run.scores.tolist(), strict=True
    ):
        for rank, (index, score) in enumerate(zip(passage_indices, scores, strict=True), start=1):
            if index < 0:
                break  # fewer passages were found
            # Nine significant digits identify a float32.
            yield f"{query_id} Q0 {run.passage_ids[index]} {rank} {score:.9g} hbt"


def _qrels_lines(judgements: Mapping[str, Mapping[str, int]]) -> Iterator[str]:
    return chain.from_iterable(
        (f"{query_id} 0 {passage_id} {grade}" for passage_id, grade in sorted(judged.items()))
        for query_id, judged in sorted(judgements.items())
    )


def _write_lines(path: Path, lines: Iterator[str]) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(f"{line}\n" for line in lines)
