"""Resource levels of languages."""

from __future__ import annotations

from hbt_ray.data.language_resources import MIRACL_PASSAGES, resource_level


def test_eighteen_languages_have_a_resource_level():
    assert len(MIRACL_PASSAGES) == 18
    levels = {
        level: sorted(x for x in MIRACL_PASSAGES if resource_level(x) == level) for level in ("low", "mid", "high")
    }
    assert levels["low"] == ["bn", "hi", "sw", "te", "th", "yo"]
    assert levels["high"] == ["de", "en", "es", "fr", "ja", "ru", "zh"]
    assert resource_level("tr") is None
