"""What a report was made of, for people: model, date, version, settings, data with fingerprints."""

from __future__ import annotations

from collections.abc import Mapping

from hbt_ray.utils.redaction import redacted_value


def described_report(report: Mapping[str, object]) -> list[tuple[str, str]]:
    """Return names and values of what `report.json` says of the model, the settings and the data.

    Settings that are off or not given are left out. Reports of earlier versions have no date and no version.
    """
    model, settings, counts = (_mapping(report.get(key)) for key in ("model", "settings", "counts"))
    described: list[tuple[str, str]] = []
    if isinstance(report.get("model"), str):
        described.append(("model", str(report["model"])))
    described += [_shown("model" if key == "path" else key, value) for key, value in model.items() if _is_given(value)]
    data = [
        f"{report.get('benchmark')} {report.get('split') or ''}".strip(),
        f"fingerprint {report.get('fingerprint')}",
    ]
    data += [f"{counts[key]:,} {key}" for key in ("queries", "passages", "languages") if key in counts]
    described.append(("data", ", ".join(data)))
    if "decontaminated" in report:
        described.append(("training data decontaminated against it", "yes" if report["decontaminated"] else "no"))
    unused = {"figures", *(() if settings.get("shards") else ("index", "index_depth"))}
    described += [_shown(key, value) for key, value in settings.items() if _is_given(value) and key not in unused]
    named = (("date", "date"), ("version", "hbt_ray version"))
    described += [(name, str(report[key])) for key, name in named if report.get(key)]
    return described


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, Mapping) else {}


def _is_given(value: object) -> bool:
    return value not in (None, False, "", 0, [], ())


def _shown(key: str, value: object) -> tuple[str, str]:
    return key.replace("_", " "), redacted_value(key, value)
