"""Crossmodal-3600 (Thapliyal et al. 2022, EMNLP): captions of 3,600 images by people, in 36 languages.

`captions.jsonl` has an object for each image: `image/key`, and for each language an object with a list `caption`.
Captions of one image say the same, so they serve as parallel texts: the first caption of a language asks, and the
others, in every language, answer. No caption is in the pool that it asks.
"""

from __future__ import annotations

from typing import Any

from hbt_ray.data.benchmarks.base import ReadOptions
from hbt_ray.data.benchmarks.builder import BenchmarkBuilder
from hbt_ray.data.benchmarks.file_parsing import files_matching, is_text, read_objects
from hbt_ray.data.types import Benchmark
from hbt_ray.errors import CorpusError


def read_benchmark(name: str, folder: str, options: ReadOptions) -> Benchmark:
    """Query ids are `<language>:<image>`, passage ids `<language>:<image>:<number of the caption>`.

    Raises:
        CorpusError: the folder holds no captions.jsonl, or no captions in a language asked for.
    """
    builder = BenchmarkBuilder(name)
    files = files_matching(folder, r"captions\.jsonl")
    if not files:
        raise CorpusError(f"{folder!r} holds no captions.jsonl; fetch it there")
    found: set[str] = set()
    for path, _ in files:
        for location, image in read_objects(path, builder, ("image/key",)):
            found.update(language for language, described in image.items() if isinstance(described, dict))
            _add_image(image, location, builder, options)
    options.check_languages(folder, found)
    return builder.build(judged_only=False)


def _add_image(image: dict[str, Any], location: str, builder: BenchmarkBuilder, options: ReadOptions) -> None:
    key = image["image/key"]
    asked: list[str] = []
    answers: list[tuple[str, str]] = []
    for language, described in sorted(image.items()):
        if not isinstance(described, dict) or (options.languages and language not in options.languages):
            continue
        captions = described.get("caption")
        if not isinstance(captions, list) or not all(is_text(caption) for caption in captions) or not captions:
            builder.reject(location, "missing text", f"no captions in {language}")
            continue
        query_id = f"{language}:{key}"
        if builder.add_query(query_id, language, captions[0], location=location, group=key):
            asked.append(query_id)
        for number, caption in enumerate(captions[1:], start=2):
            passage_id = f"{language}:{key}:{number}"
            if builder.add_passage(passage_id, language, caption, location=location):
                answers.append((passage_id, language))
    for query_id in asked:
        for passage_id, language in answers:
            builder.add_judgement(query_id, passage_id, 1, language=language, location=location)
