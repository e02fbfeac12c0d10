"""The section of a report on what alpha does: every metric over alpha, for each number of steps."""

from __future__ import annotations

from hbt_ray.evaluation.metrics import display_name
from hbt_ray.study.config import Method, StudyConfig
from hbt_ray.study.figures import lines_figure
from hbt_ray.study.report_sections import ReportSection, format_estimate
from hbt_ray.study.results import StudyResults

_ALPHA_OF_STRATEGY = {"x-x-mono": 1.0, "x-y": 0.0}


def alpha_section(results: StudyResults) -> ReportSection:
    """List and draw the metrics over alpha, a line for each number of steps.

    The strategy x-x-mono is alpha 1 and x-y is alpha 0. Methods that change other settings are left out, and those that
    train nothing are dashed lines.
    """
    section = ReportSection("By alpha")
    config = results.config
    methods: dict[int, dict[float, str]] = {}  # steps -> alpha -> method
    for name, method in config.methods.items():
        alpha = alpha_of(config, method)
        if alpha is not None:
            steps = method.settings.get("train.steps", config.run.train.steps)
            methods.setdefault(int(steps), {})[alpha] = name
    alphas = sorted({alpha for of_steps in methods.values() for alpha in of_steps})
    untrained = [name for name, method in config.methods.items() if not (method.trained or method.needs)]
    lines, levels = {}, {}
    for metric in config.measures:
        estimates = results.estimates(metric)
        lines[display_name(metric)] = {
            f"{steps:,} steps": [(alpha, estimates[of_steps[alpha]]) for alpha in sorted(of_steps)]
            for steps, of_steps in sorted(methods.items())
        }
        levels[display_name(metric)] = {name: estimates[name].mean for name in untrained}
        rows = [
            [
                f"{steps:,}",
                *(format_estimate(metric, estimates[of_steps[one]]) if one in of_steps else "" for one in alphas),
            ]
            for steps, of_steps in sorted(methods.items())
        ]
        section.add_table(["steps", *(f"alpha {one:g}" for one in alphas)], rows, caption=f"{display_name(metric)}:")
    title = "Metrics over alpha, with 95% intervals over seeds"
    section.add_figure("alpha", title, lines_figure(title, "alpha, the fraction of monolingual batches", lines, levels))
    return section


def alpha_of(config: StudyConfig, method: Method) -> float | None:
    """Return the fraction of monolingual batches of a method; None if it differs in more than that and its steps."""
    settings = {key: value for key, value in method.settings.items() if key != "train.steps"}
    strategy = settings.pop("mix.strategy", config.run.mix.strategy)
    alpha = settings.pop("mix.alpha", config.run.mix.alpha)
    if settings or not method.trained or method.needs or method.pretrained or method.tokens_of or method.debiased:
        return None
    return float(alpha) if strategy == "hybrid" else _ALPHA_OF_STRATEGY.get(strategy)
