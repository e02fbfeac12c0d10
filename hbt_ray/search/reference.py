"""Print the tables of README.md from the registry and the schema: `python -m hbt_ray.search.reference`."""

from __future__ import annotations

from hbt_ray.config.reference import settings_table
from hbt_ray.search.algorithms import ALGORITHMS, ListedAlgorithm
from hbt_ray.search.config import DevConfig, SearchDimension, SearchSettings


def algorithms_table() -> list[str]:
    """Return the lines of a table of all algorithms."""
    lines = ["| `algorithm` | candidates | known before the first trial |", "|---|---|---|"]
    for name, algorithm in ALGORITHMS.items():
        text = str(algorithm.__doc__).partition("\n")[0]
        is_listed = isinstance(algorithm, ListedAlgorithm)
        lines.append(f"| `{name}` | {text} | {'yes' if is_listed else 'no'} |")
    return lines


def reference() -> str:
    """Return the tables of algorithms and settings, as README.md has them at its end."""
    sections = {
        "Algorithms": algorithms_table(),
        "Settings of a search": settings_table(SearchSettings),
        "Values of a setting in `space`": settings_table(SearchDimension),
        "The dev set, `dev`": settings_table(DevConfig),
    }
    return "\n".join(f"### {title}\n\n" + "\n".join(lines) + "\n" for title, lines in sections.items())


if __name__ == "__main__":
    print(reference(), end="")
