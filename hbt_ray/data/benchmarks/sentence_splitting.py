"""Paragraphs cut in sentences, where a set does not say where its sentences end."""

from __future__ import annotations


def sentence_spans(text: str, language: str) -> list[tuple[int, int]]:
    """[start, end) of each sentence, in characters, without the blanks around it.

    By sentencex, which knows the abbreviations and marks of some 250 languages and takes a related one's for others.
    Thai, which has no mark, is cut where its writers leave a blank between clauses only as far as that library sees.

    >>> sentence_spans("Dr. Wu came. Why? ", "en")
    [(0, 12), (13, 17)]
    """
    import sentencex  # when asked for: most sets bring their own sentences

    spans = []
    for found in sentencex.get_sentence_boundaries(language, text):
        start, end = found["start_index"], found["end_index"]
        sentence = text[start:end]
        stripped = sentence.strip()
        if stripped:
            start += sentence.index(stripped)
            spans.append((start, start + len(stripped)))
    return spans
