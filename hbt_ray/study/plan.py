"""A study's plan, `plan.json`: its claims, methods, metrics and seeds, written and hashed before the first training.

The report prints the hash, and says whether the plan was changed when results existed. So a reader can see which claims
were made before the results.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from hbt_ray.config import stored_settings
from hbt_ray.errors import UserError
from hbt_ray.evaluation.significance import LEVEL
from hbt_ray.study.claims import POWER, Claim
from hbt_ray.study.config import StudyConfig
from hbt_ray.utils.atomic_write import atomic_write_text
from hbt_ray.utils.digests import JsonObject, with_checksum, without_checksum
from hbt_ray.utils.limits import load_json

PLAN = "plan.json"
_HISTORY = ("after_results", "earlier")  # keys that are no part of the plan itself
# Settings that change neither the runs nor what is claimed of them.
_LEFT_OUT = {"title", "question", "chapters", "licences", "limits", "published", "concurrent"}
_LEFT_OUT |= {"claims", "seeds", "measures"}  # which the plan has itself
_LEFT_OUT_OF_RUN = {"name", "seed", "storage", "tracking"}


def study_plan(config: StudyConfig) -> JsonObject:
    """Return the plan of a study."""
    settings = stored_settings(config)
    settings = {key: value for key, value in settings.items() if key not in _LEFT_OUT}
    settings["run"] = {key: value for key, value in settings["run"].items() if key not in _LEFT_OUT_OF_RUN}
    return {
        "study": config.name,
        "reference": config.reference,
        "methods": list(config.methods),
        "measures": list(config.measures),
        "seeds": list(config.seeds),
        "level": LEVEL,
        "claims": [_planned(claim, len(config.seeds)) for claim in config.claims],
        "settings": hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest(),
    }


def _planned(claim: Claim, seeds: int) -> JsonObject:
    """Return a claim with its power and the seeds that it needs; null without a deviation of a pilot."""
    deviation = claim.pilot_sd
    is_known = deviation is not None and claim.margin is not None
    return {
        **claim.model_dump(mode="json"),
        "power": claim.power(deviation, seeds) if is_known and deviation and seeds > 1 else None,
        "seeds_needed": claim.seeds_needed(deviation) if is_known and deviation else None,
        "power_wanted": POWER,
    }


def keep_plan(config: StudyConfig, folder: Path, *, has_ended: bool = False) -> None:
    """Write the plan to a study's folder, unless it is there.

    While there are no results, a plan that differs replaces the one before. Where there are, it does so only when all
    experiments have ended, because a study with other settings may be refused; then the new plan says that it was
    written when results existed, and has the hashes of those before it.

    Args:
        config: of the study, as it was given.
        folder: of the study.
        has_ended: False: before the first training. True: before the report.

    Raises:
        UserError: the plan in the folder is damaged.
        StorageError: it cannot be written.
    """
    plan = study_plan(config)
    before = read_plan(folder)
    if before is not None and _without_history(before) == json.loads(json.dumps(plan)):
        return
    history: JsonObject = {"after_results": False, "earlier": []}
    if next(folder.glob("cells/*/seed-*/evaluation/*/report.json"), None):
        if not has_ended:
            return
        earlier = [] if before is None else [*before["earlier"], before["sha256"]]
        history = {"after_results": True, "earlier": earlier}
    atomic_write_text(folder / PLAN, with_checksum({**plan, **history}))


def read_plan(folder: Path) -> JsonObject | None:
    """Read the plan of a study with its hash, the key `sha256`; None where there is none.

    Raises:
        UserError: it is not as it was written.
    """
    file = folder / PLAN
    try:
        text = file.read_text(encoding="utf-8")
        plan = without_checksum(text)
        return {"after_results": False, "earlier": [], **plan, "sha256": load_json(text)["sha256"]}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"{str(file)!r} is not a plan as it was written ({error}); delete it, and the report says that a new plan "
            "was written when results existed"
        ) from None


def _without_history(plan: JsonObject) -> JsonObject:
    return {key: value for key, value in plan.items() if key not in (*_HISTORY, "sha256")}
