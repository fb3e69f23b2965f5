"""The objects in a store, taken apart: how many frames they are made of, and how many lines each partition holds."""

import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import zstandard

EXTENSIONS = {"gzip": "ndjson.gz", "zstd": "ndjson.zst", "none": "ndjson"}

Partition = tuple[str, int]

_DECODERS: dict[str, Callable[[], Any]] = {
    # 31: the largest window, and a gzip header.
    "gzip": lambda: zlib.decompressobj(wbits=31),
    "zstd": lambda: zstandard.ZstdDecompressor().decompressobj(),
}


class StoredObject:
    """One object, with how many frames and lines are in it."""

    def __init__(self, path: Path, compression: str) -> None:
        self.path = path
        frames = _frames(path.read_bytes(), compression)
        self.frames = len(frames)
        self.lines = sum(frame.count(b"\n") for frame in frames)

    @property
    def partition(self) -> Partition:
        """dt and hr, as the folders say."""
        hr, dt = (folder.name for folder in list(self.path.parents)[:2])
        return dt.removeprefix("dt="), int(hr.removeprefix("hr="))


def stored_in(store: Path, compression: str) -> list[StoredObject]:
    """Every object of a store."""
    paths = sorted(path for path in store.rglob("*") if path.is_file())
    strays = [path for path in paths if not path.match(f"dt=*/hr=*/*.{EXTENSIONS[compression]}")]
    if strays:
        raise ValueError(f"not named as objects are: {strays}")
    return [StoredObject(path, compression) for path in paths]


def lines_by_partition(objects: list[StoredObject]) -> Counter[Partition]:
    """How many rows a reader that knows partitions must see in each."""
    lines: Counter[Partition] = Counter()
    for stored_object in objects:
        lines[stored_object.partition] += stored_object.lines
    return lines


def _frames(data: bytes, compression: str) -> list[bytes]:
    """Both kinds of decoder stop at the end of a frame and keep what follows."""
    if compression == "none":
        return [data]
    frames = []
    while data:
        decoder = _DECODERS[compression]()
        frames.append(decoder.decompress(data))
        if not decoder.eof:
            raise ValueError("the last frame is cut short")
        data = decoder.unused_data
    return frames
