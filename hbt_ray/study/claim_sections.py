"""The sections of a report on claims: the plan, each claim's verdict, the number of seeds, and the placebo."""

from __future__ import annotations

import numpy as np

from hbt_ray.evaluation.metrics import display_name
from hbt_ray.evaluation.significance import LEVEL, format_p
from hbt_ray.study.claims import POWER, ClaimResult
from hbt_ray.study.plan import PLAN, read_plan
from hbt_ray.study.report_sections import ReportSection, format_metric
from hbt_ray.study.results import StudyResults


def claims_section(results: StudyResults) -> ReportSection:
    """Say when the plan was written, what is shown of each claim, and how many seeds each needs.

    Raises:
        UserError: the plan is damaged.
    """
    section = ReportSection("Plan and claims")
    plan = read_plan(results.folder)
    if plan is not None:
        when = "was written before the first result."
        if plan["after_results"]:
            earlier = ", ".join(f"`{one}`" for one in plan["earlier"]) or "none"
            when = f"was **written or changed when results existed**. Earlier plans: {earlier}."
        section.add_text(f"The plan of this study, `{PLAN}` with SHA-256 `{plan['sha256']}`, {when}")
    tested = results.tested_claims()
    if tested:
        section.lines += [*(f"- {claim_sentence(one)}" for one in tested), ""]
        section.add_text(
            "Claims are tested over other seeds and other questions, and corrected by Holm's method: superiority "
            f"two-sided, non-inferiority and equivalence one-sided in each direction, at the level of {LEVEL:.0%}."
        )
        section.add_table(
            ["claim", "deviation over seeds", "from", "seeds", "power", f"seeds for a power of {POWER:.0%}"],
            [_power_row(one, len(results.config.seeds)) for one in tested],
            caption="Number of seeds, by the noncentral t distribution of the paired test over seeds. A deviation from "
            "these runs was not known before them: it serves the next study.",
        )
    return section


def claim_sentence(tested: ClaimResult) -> str:
    """Return a claim and its verdict as a sentence."""
    claim, difference = tested.claim, tested.difference
    stated = _stated(tested)
    if difference is None:
        return f"{stated}: **not known**, with fewer than two seeds or clusters of questions."
    half_width = difference.half_width(claim.confidence)
    mean, low, high = (
        format_metric(claim.metric, difference.mean + shift, sign=True) for shift in (0, -half_width, half_width)
    )
    verdict = "shown" if tested.is_shown else "not shown"
    numbers = f"{mean}, {claim.confidence:.0%} interval {low} to {high}, p {format_p(tested.p_value)}"
    return f"{stated}: **{verdict}** (difference {numbers})."


def _stated(tested: ClaimResult) -> str:
    claim = tested.claim
    margin = "" if claim.margin is None else format_metric(claim.metric, claim.margin)
    verb = {
        "superior": f"is better than {claim.versus}",
        "non-inferior": f"is not worse than {claim.versus} by {margin}",
        "equivalent": f"differs from {claim.versus} by less than {margin}",
    }[claim.kind]
    return f"{claim.method} {verb} in {display_name(claim.metric)}"


def _power_row(tested: ClaimResult, seeds: int) -> list[str]:
    claim = tested.claim
    deviation, source = claim.pilot_sd, "pilot, in the plan"
    if deviation is None and tested.difference is not None:
        deviation, source = float(np.std(tested.difference.by_seed, ddof=1)), "these runs"
    if not deviation or claim.margin is None:
        return [_stated(tested), "–", "–", str(seeds), "–", "–"]
    power = claim.power(deviation, seeds) if seeds > 1 else None
    return [
        _stated(tested),
        format_metric(claim.metric, deviation),
        source,
        str(seeds),
        "–" if power is None else f"{power:.2f}",
        str(claim.seeds_needed(deviation) or "more than 1,000"),
    ]


def placebo_section(results: StudyResults) -> ReportSection:
    """List how often each method is called different from itself; empty with fewer than six seeds."""
    section = ReportSection("Placebo")
    rows = [
        [method, display_name(metric), str(found.splits), str(found.by_models), str(found.by_methods)]
        for metric in results.config.measures
        for method, found in results.placebos(metric).items()
    ]
    if rows:
        section.add_text(
            "Each method against itself: one half of its seeds against the other half, in every split. A test of "
            f"methods should call them different in {LEVEL:.0%} of splits; the splits share their runs, so the counts "
            "vary more than independent ones."
        )
        section.add_table(["method", "metric", "splits", "different by questions only", "different by seeds"], rows)
    return section
