"""Limit of the growth of Arrow IPC files, whose buffers may be compressed, checked before any is decompressed."""

from __future__ import annotations

import struct
from pathlib import Path

import pyarrow as pa

from hbt_ray.utils.limits import check_growth, max_decompressed_bytes

_FILE_MAGIC = b"ARROW1\0\0"  # of the file format, which has a stream of messages after it
# Field numbers of the tables in Arrow's Message.fbs.
_MESSAGE_HEADER, _DICTIONARY_DATA, _BATCH_BUFFERS, _BATCH_COMPRESSION = 2, 1, 2, 3


def check_arrow_growth(path: Path) -> None:
    """Check that an Arrow IPC file or stream holds no more bytes than the limit of its growth.

    Each compressed buffer begins with its size before compression, as 64 bits; -1 if it was stored as it was.

    Raises:
        OSError: it holds more.
        ArrowException: it is no Arrow IPC, or damaged; then it may also be a struct.error.
    """
    left = max_decompressed_bytes(path.stat().st_size)
    with pa.memory_map(str(path)) as source:
        source.seek(len(_FILE_MAGIC) if source.read(len(_FILE_MAGIC)) == _FILE_MAGIC else 0)
        for message in pa.ipc.MessageReader.open_stream(source):
            if message.type in ("record batch", "dictionary"):
                left -= _decompressed_bytes(message)
                check_growth(left)


def _decompressed_bytes(message: pa.ipc.Message) -> int:
    """Return the bytes of a batch's buffers before compression; 0 if they are not compressed."""
    table = _Table.root(message.metadata.to_pybytes()).table(_MESSAGE_HEADER)
    if message.type == "dictionary":
        table = table.table(_DICTIONARY_DATA)
    if not table.position(_BATCH_COMPRESSION):
        return 0
    body = memoryview(message.body)
    sizes = (struct.unpack_from("<q", body, offset)[0] for offset, length in table.pairs(_BATCH_BUFFERS) if length >= 8)
    return sum(size for size in sizes if size > 0)


class _Table:
    """A table of a flatbuffer: https://flatbuffers.dev/internals."""

    def __init__(self, content: bytes, start: int) -> None:
        self._content = content
        self._start = start

    @classmethod
    def root(cls, content: bytes) -> _Table:
        return cls(content, struct.unpack_from("<I", content)[0])

    def position(self, field: int) -> int:
        """Return where a field's value is; 0 if the table does not have it."""
        fields = self._start - struct.unpack_from("<i", self._content, self._start)[0]
        slot = 4 + 2 * field
        if slot >= struct.unpack_from("<H", self._content, fields)[0]:
            return 0
        offset = struct.unpack_from("<H", self._content, fields + slot)[0]
        return self._start + offset if offset else 0

    def table(self, field: int) -> _Table:
        return _Table(self._content, self._follow(field))

    def pairs(self, field: int) -> list[tuple[int, int]]:
        """Return a vector of structs of two 64-bit integers."""
        start = self._follow(field)
        count = struct.unpack_from("<I", self._content, start)[0]
        values = struct.unpack_from(f"<{2 * count}q", self._content, start + 4)
        return list(zip(values[::2], values[1::2], strict=True))

    def _follow(self, field: int) -> int:
        position = self.position(field)
        return position + int(struct.unpack_from("<I", self._content, position)[0])
