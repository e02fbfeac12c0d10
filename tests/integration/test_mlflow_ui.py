"""MLflow's pages of a search: its trials below it, compared, drawn and registered."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow import MlflowClient
from PIL import Image

from tests.helpers.slow import slow
from tests.integration.mlflow_pages import Pages, chromium, missing, served

pytestmark = pytest.mark.skipif(
    bool(missing), reason=f"no {' and no '.join(missing)}: apt-get install chromium chromium-driver"
)

RUN_NAMES = ".ag-pinned-left-cols-container .ag-row a[href*='/runs/']"


@pytest.fixture(scope="module")
def store(finished_search) -> Path:
    return finished_search.folder.parent / "mlflow.db"


@pytest.fixture(scope="module")
def browser(store, tmp_path_factory) -> Iterator[tuple[Any, str]]:
    """Return a browser, and the address of a server on the search's store."""
    folder = tmp_path_factory.mktemp("mlflow_ui")
    with served(store, folder) as address, chromium(folder) as driver:
        yield driver, address


@pytest.fixture
def pages(browser, tmp_path) -> Pages:
    screenshots = Path(os.environ.get("HBT_SCREENSHOTS") or tmp_path)
    screenshots.mkdir(parents=True, exist_ok=True)
    return Pages(*browser, screenshots)


def open_runs(pages: Pages, store: Path) -> None:
    experiment = MlflowClient(f"sqlite:///{store}").get_experiment_by_name("hbt")
    pages.open(f"/experiments/{experiment.experiment_id}/runs")
    pages.until(lambda: pages.all(RUN_NAMES, "tiny"), "the search")


def unfold_trials(pages: Pages, trials: set[str]) -> None:
    """Open what is grouped below the only run that is listed."""
    pages.click(".ag-pinned-left-cols-container .ag-row button")
    pages.until(lambda: {run.text for run in pages.all(RUN_NAMES)} >= trials, f"the trials {sorted(trials)}")


def test_runs_page_folds_trials_below_their_search(finished_search, store, pages):
    trials = {trial.name for trial in finished_search.trials}
    open_runs(pages, store)
    assert [run.text for run in pages.all(RUN_NAMES)] == ["tiny"]
    unfold_trials(pages, trials)
    pages.keep("runs")
    search, *below = sorted(pages.all(RUN_NAMES), key=lambda run: run.rect["y"])
    assert search.text == "tiny"
    assert sorted(run.text for run in below) == sorted(trials)
    assert all(run.rect["x"] > search.rect["x"] for run in below)


@slow
def test_comparison_page_draws_trials_from_alpha_to_objective(finished_search, store, pages):
    open_runs(pages, store)
    unfold_trials(pages, {trial.name for trial in finished_search.trials})
    for run in pages.all(RUN_NAMES):
        if run.text != "tiny":
            run.find_element("xpath", "ancestor::*[@role='row']//input[contains(@class, 'ag-checkbox-input')]").click()
    pages.click("[data-testid='runs-compare-button']")

    def titles() -> dict[str, Any]:
        return {title.text: title for title in pages.all(".pcp-plot .axis-title")}

    def drawn() -> int:
        """Count coloured pixels between the axes, which are grey; the scale of colours is outside of them."""
        left, right = titles()["mix.alpha"].rect, titles()["held-out/mono/map"].rect
        top = int(left["y"] + left["height"]) + 20
        between = (int(left["x"] + left["width"]), top, int(right["x"]), top + 250)
        colours = np.asarray(pages.keep("comparison").crop(between), int)
        return int((np.ptp(colours, axis=2) > 60).sum())

    pages.until(lambda: {"mix.alpha", "held-out/mono/map"} <= titles().keys(), "axes for alpha and the mono mAP")
    pages.until(lambda: drawn() > 500, "the trials as lines")
    axes = pages.driver.execute_script("return document.querySelector('.pcp-plot').data[0].dimensions")
    values = {axis["label"]: axis["values"] for axis in axes}
    shown = sorted(zip(values["mix.alpha"], values["held-out/mono/map"], strict=True))
    expected = sorted(
        (t.candidate.values["mix.alpha"], t.evaluations[-1][1]["held-out/mono/map"]) for t in finished_search.trials
    )
    np.testing.assert_allclose(shown, expected, rtol=1e-6)


@slow
def test_run_page_of_a_search_shows_its_figures(finished_search, store, pages):
    open_runs(pages, store)
    pages.click(RUN_NAMES, "tiny")
    pages.click("[role='tab']", "Artifacts")
    pages.click("[data-testid='artifact-tree-node']", "figures")
    figures = {figure.name for figure in finished_search.folder.glob("*.png")}
    assert "objectives.png" in figures

    def listed() -> set[str]:
        return {node.text.strip() for node in pages.all("[data-testid='artifact-tree-node']")}

    pages.until(lambda: listed() >= figures, f"the figures {sorted(figures)}")
    assert {"best.yaml", "summary.json", "trials.parquet", "tables"} <= listed()
    pages.click("[data-testid='artifact-tree-node']", "objectives.png")
    image = "img[alt='figures/objectives.png']"

    def size() -> tuple[int, int]:
        [picture] = pages.all(image)
        return picture.get_property("naturalWidth"), picture.get_property("naturalHeight")

    with Image.open(finished_search.folder / "objectives.png") as picture:
        pages.until(lambda: size() == picture.size, f"a picture of {picture.size} pixels")
    pages.keep("figures")
    [shown] = pages.all(image)
    assert shown.rect["width"] > 600


def test_model_page_marks_the_best_version(pages):
    pages.open("/models/tiny")
    pages.until(lambda: pages.all("[role='row'] a", "Version 1"), "the version")
    pages.keep("model")
    [row] = [row.text.split("\n") for row in pages.all("[role='row']") if "Version 1" in row.text]
    assert "@ best" in row
