"""Resource levels of languages: whether a language has few or many texts.

Metrics are averaged by level, so that a mean over languages does not hide how those with few texts do.
"""

from __future__ import annotations

from types import MappingProxyType

# Wikipedia passages of each language in MIRACL: Zhang et al. 2023 (TACL 11), table 2, and MIRACL's page for de and yo.
MIRACL_PASSAGES = MappingProxyType(
    {
        **{"ar": 2_061_414, "bn": 297_265, "de": 15_866_222, "en": 32_893_221, "es": 10_373_953, "fa": 2_207_172},
        **{"fi": 1_883_509, "fr": 14_636_953, "hi": 506_264, "id": 1_446_315, "ja": 6_953_614, "ko": 1_486_752},
        **{"ru": 9_543_918, "sw": 131_924, "te": 518_079, "th": 542_166, "yo": 49_043, "zh": 4_934_368},
    }
)
MAX_PASSAGES = MappingProxyType({"low": 1_000_000, "mid": 4_000_000})  # exclusive; "high" has no bound


def resource_level(language: str) -> str | None:
    """Return "low", "mid" or "high" by a language's Wikipedia passages in MIRACL; None if MIRACL lacks it.

    >>> resource_level("sw"), resource_level("ar"), resource_level("en"), resource_level("tr")
    ('low', 'mid', 'high', None)
    """
    passages = MIRACL_PASSAGES.get(language)
    if passages is None:
        return None
    return next((level for level, bound in MAX_PASSAGES.items() if passages < bound), "high")
