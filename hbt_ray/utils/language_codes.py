"""Language codes as in BCP 47: which texts are codes, and how they are spelled.

Codes are written in many ways: zh_CN, pt-br, zh-Hant-TW. One spelling is kept, so that a language has one name in
stores and metrics: the language in lower case, the script in title case, the region in upper case, joined by hyphens. A
code of three letters is not replaced by one of two, since parallel corpora name their files by either.
"""

from __future__ import annotations

import re
from functools import cache

_CODE = re.compile(
    r"(?P<language>[A-Za-z]{2,3})(?:[-_](?P<script>[A-Za-z]{4}))?(?:[-_](?P<region>[A-Za-z]{2}|[0-9]{3}))?"
    r"(?P<variants>(?:[-_](?:[0-9][A-Za-z0-9]{3}|valencia|tarask))*)"
)
_FLORES = re.compile(r"[a-z]{3}_[A-Z][a-z]{3}")  # eng_Latn, the published names of that benchmark's languages

# Codes of small languages that are usual words in the names of files: dev.jsonl is a split, not in Domung. Languages of
# large corpora are none of them, such as Marathi (mar), Quechua (que), Rundi (run) and Bashkir (bak).
_FILE_WORDS = (
    "all ans any api app apr asr aug big bio cap com cot csv dec dev doc end gis gov ids int jan job jul jun key lab "
    "law llm log low max med mix mrc neg ner net new nli nmt num old one ood org par pos pre pub rag raw rel res sci "
    "seg sep set smt src srl std sts sub sum sys tab tag tax tex tgt tmp top toy trn tst tsv tts two txt val www"
)


def spell_code(text: str) -> str:
    """Return a code in the one spelling; a text that is no code unchanged.

    >>> [spell_code(text) for text in ("zh_cn", "sr-latn", "pt-BR", "deu", "eng_Latn", "a language")]
    ['zh-CN', 'sr-Latn', 'pt-BR', 'deu', 'eng_Latn', 'a language']
    """
    match = _CODE.fullmatch(text)
    if match is None or _FLORES.fullmatch(text):
        return text
    language, script, region, variants = match.group("language", "script", "region", "variants")
    parts = (language.lower(), (script or "").title(), (region or "").upper(), variants.strip("-_").replace("_", "-"))
    return "-".join(part for part in parts if part)


def language_code(text: str) -> str | None:
    """Return the one spelling of a language code; None if there is no such language, script or region.

    >>> language_code("zh_CN"), language_code("nq"), language_code("en-questions")
    ('zh-CN', None, None)
    """
    match = _CODE.fullmatch(text)
    if match is None:
        return None
    languages, scripts, regions = _known_subtags()
    known = (
        match["language"].lower() in languages
        and (match["script"] is None or match["script"].title() in scripts)
        and (match["region"] is None or match["region"].upper() in regions)
    )
    return spell_code(text) if known else None


def language_of_name(name: str) -> str | None:
    """Return the language that a file or folder is named by; None if its name is another word.

    >>> language_of_name("pt-br"), language_of_name("dev"), language_of_name("dev_de")
    ('pt-BR', None, None)
    """
    return None if re.split("[-_]", name.lower())[0] in _FILE_WORDS.split() else language_code(name)


def language_at_end(name: str) -> str | None:
    """Return the language at the end of a name, the longest that is one.

    >>> language_at_end("miracl-corpus-v1.0-sw"), language_at_end("mldr-v1.0-pt-br"), language_at_end("data")
    ('sw', 'pt-BR', None)
    """
    parts = name.split("-")
    return next(filter(None, (language_of_name("-".join(parts[start:])) for start in range(len(parts)))), None)


def language_by_english_name(name: str) -> str | None:
    """Return the code of a language by its English name, in any case; None if there is no such language.

    >>> language_by_english_name("german"), language_by_english_name("Klingon")
    ('de', 'tlh')
    """
    from babel import Locale

    names = Locale("en").languages
    return next((spell_code(code) for code, english in names.items() if english.lower() == name.lower()), None)


def same_language(first: str, second: str) -> bool:
    """Return True if two codes do not contradict each other.

    >>> same_language("zh", "zh_TW"), same_language("deu", "de"), same_language("pt-PT", "pt-BR")
    (True, True, False)
    """
    one, other = _CODE.fullmatch(first), _CODE.fullmatch(second)
    if one is None or other is None:
        return first == second
    if _current_language(one["language"]) != _current_language(other["language"]):
        return False
    pairs = [(one[part] or "", other[part] or "") for part in ("script", "region")]
    return all(not left or not right or left.lower() == right.lower() for left, right in pairs)


def _current_language(language: str) -> str:
    """Return the language of CLDR for a code: de for deu."""
    from babel.core import get_global

    replacement = get_global("language_aliases").get(language.lower(), language.lower())
    return str(replacement).partition("_")[0]


@cache
def _known_subtags() -> tuple[frozenset[str], frozenset[str], frozenset[str]]:
    """Return the languages, scripts and regions that CLDR knows."""
    from babel import Locale  # not at the top: it takes long to import, and few processes need it
    from babel.core import get_global

    english = Locale("en")
    names = {code.partition("_")[0] for code in (*english.languages, *get_global("likely_subtags"))}
    collective = {"ber", "nah", "smi"}  # Berber, Nahuatl and Sami languages, of which CLDR knows the members only
    return (
        frozenset(names | collective | set(get_global("language_aliases"))),
        frozenset(english.scripts),
        frozenset(english.territories),
    )
