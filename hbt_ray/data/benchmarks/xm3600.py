"""Crossmodal-3600 (Thapliyal et al. 2022, EMNLP): captions of 3,600 images, written by people in 36 languages.

`captions.jsonl` has an object for each image: `image/key`, and for each language an object with a list `caption`.
Captions of one image have the same meaning, so they serve as parallel texts: the first caption of each language is a
query, and the others are passages. All passages of an image, in every language, are relevant to its queries.
"""

from __future__ import annotations

from hbt_ray.data.benchmarks.base import BenchmarkReader, ReadOptions
from hbt_ray.data.benchmarks.builder import BenchmarkBuilder
from hbt_ray.data.benchmarks.file_parsing import JsonEntry, files_matching, is_text, read_objects
from hbt_ray.data.types import Benchmark
from hbt_ray.errors import CorpusError
from hbt_ray.utils.language_codes import language_code


def read_benchmark(name: str, folder: str, options: ReadOptions) -> Benchmark:
    """Read all images. Query ids are `<language>:<image>`, passage ids `<language>:<image>:<number of the caption>`.

    Raises:
        CorpusError: the folder has no captions.jsonl, or no captions in a chosen language.
    """
    builder = BenchmarkBuilder(name)
    files = files_matching(folder, r"captions\.jsonl")
    if not files:
        raise CorpusError(f"{folder!r} holds no captions.jsonl; fetch it there")
    languages: set[str] = set()
    for path, _ in files:
        for image in read_objects(path, builder, ("image/key",)):
            languages.update(language for language, _ in _captions_by_language(image, builder))
            _add_image(image, builder, options)
    options.check_languages(folder, languages)
    return builder.build(judged_only=False)


def _add_image(image: JsonEntry, builder: BenchmarkBuilder, options: ReadOptions) -> None:
    key, location = image.texts["image/key"], image.location
    query_ids: list[str] = []
    passages: list[tuple[str, str]] = []  # (passage id, language)
    for language, value in _captions_by_language(image):
        if not options.includes(language):
            continue
        captions = value.get("caption")
        if not isinstance(captions, list) or not all(is_text(caption) for caption in captions) or not captions:
            builder.reject(location, "missing text", f"no captions in {language}")
            continue
        query_id = f"{language}:{key}"
        if builder.add_query(query_id, language, captions[0], location=location, group=key):
            query_ids.append(query_id)
        for number, caption in enumerate(captions[1:], start=2):
            passage_id = f"{language}:{key}:{number}"
            if builder.add_passage(passage_id, language, caption, location=location):
                passages.append((passage_id, language))
    for query_id in query_ids:
        for passage_id, language in passages:
            builder.add_judgement(query_id, passage_id, 1, language=language, location=location)


def _captions_by_language(
    image: JsonEntry, builder: BenchmarkBuilder | None = None
) -> list[tuple[str, dict[str, object]]]:
    """Return (language, object) of an image, sorted; the builder notes an object whose key is no language."""
    found = []
    for key, value in sorted(image.fields.items()):
        language = language_code(key) if isinstance(value, dict) else None
        if language is not None and isinstance(value, dict):
            found.append((language, value))
        elif isinstance(value, dict) and builder is not None:
            builder.reject(image.location, "not a language code", key)
    return found


READER = BenchmarkReader(read_benchmark)
