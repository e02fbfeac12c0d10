"""Damage to files."""

from __future__ import annotations

from pathlib import Path


def flip_bit(file: Path, at: int | None = None) -> None:
    """Flip the lowest bit of one byte, by default of the one in the middle."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2 if at is None else at] ^= 1
    file.write_bytes(content)
