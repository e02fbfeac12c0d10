"""`hbt explain` shows what can be worked out on paper, within 80 columns and without colours in a pipe."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from hbt_ray.cli import main
from hbt_ray.config import EvaluateConfig
from hbt_ray.evaluation.report import write_report
from tests.helpers.damage import flip_bit
from tests.unit.evaluation.report.by_hand import report_by_hand, report_with_texts

GERMAN = """Wo?
q:de, de, average precision 0.7500
✓ de, rank 1 of all, 1 in its language
  Text of de:0.
best rank by language: de 1, en 4
✓ 1 0.9000 de Text of de:0.
  2 0.7000 en Text of en:1.
  3 0.5000 de Text of de:1.
✓ 4 0.3000 en Text of en:0.
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(report_by_hand(), tmp_path_factory.mktemp("report"), settings=EvaluateConfig(figures=False))


def explained(*arguments: object, columns: int = 80) -> Result:
    environment = {"COLUMNS": str(columns), "TERM": "dumb"}
    return CliRunner().invoke(main, ["explain", *map(str, arguments)], env=environment)


def lines_of(result: Result) -> list[str]:
    assert result.exit_code == 0, result.output
    return [line.rstrip() for line in result.stdout.splitlines()]


def test_one_question_is_shown_as_on_paper(folder: Path):
    assert "\n".join(lines_of(explained(folder, "--query", "q:de"))).strip() == GERMAN.strip()


def test_a_language_has_its_questions_and_the_report_all_languages(folder: Path):
    of_language = lines_of(explained(folder, "--language", "de"))
    assert of_language[0] == "de: the lowest average precision"
    assert GERMAN.splitlines()[5] in of_language
    overview = lines_of(explained(folder))
    row = next(line for line in overview if line.startswith("│ de"))
    assert [cell.strip() for cell in row.split("│")[2:-1]] == ["1", "0.7500", "100.0%", "de 50%, en 50%"]
    assert "Where?" in overview
    assert overview[-1] == f"more: hbt explain {folder} --language de, or --query ID"


@pytest.mark.parametrize("columns", [80, 120])
def test_long_texts_and_markup_stay_within_the_columns(tmp_path: Path, columns: int):
    nasty = ["[bold]" + "x" * 300, "\x1b[31mred\x07", "\u202eright to left", "ภาษาไทย" * 40, "漢字" * 200]
    write_report(report_with_texts(nasty), tmp_path, settings=EvaluateConfig(figures=False))
    result = explained(tmp_path, "--language", "en", columns=columns)
    from rich.cells import cell_len

    assert max(map(cell_len, lines_of(result))) <= columns
    assert not {"\x1b", "\x07", "\u202e"} & set(result.stdout)
    assert "[bold]x" in result.stdout


def test_mistakes_are_one_sentence_with_the_way_out(folder: Path, tmp_path: Path):
    assert "there is no report in" in explained(tmp_path).stderr
    assert "leave out --language" in explained(folder, "--query", "q:de", "--language", "de").stderr
    run = tmp_path / "run"
    for name in ("one", "two"):
        shutil.copytree(folder, run / "evaluation" / name)
    assert f"has 2 reports; name one, such as '{run / 'evaluation' / 'one'}'" in explained(run).stderr
    flip_bit(run / "evaluation" / "one" / "passages.parquet")
    damaged = explained(run / "evaluation" / "one")
    assert damaged.exit_code == 2
    assert "passages.parquet' is damaged (its checksum does not match)" in damaged.stderr
