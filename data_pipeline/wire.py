"""How are rows written and read as tf.train.Examples of byte strings, faster than protobuf does it?

Rows of one shape differ in their values alone: what the wire format of protobuf puts before each
value, its frame, is the same. So many of them are put together, and taken apart, at once.
"""

import functools
from collections.abc import Iterator, Mapping

import numpy as np


def examples(values: Mapping[str, bytes | np.ndarray], rows: int) -> Iterator[bytes]:
    """Serialised tf.train.Examples of byte strings by name.

    A value is bytes, the same for all rows, or uint8[rows, n].
    """
    sizes = tuple((n, len(v) if isinstance(v, bytes) else v.shape[1]) for n, v in values.items())
    frames = _frames(sizes)
    if rows == 1:
        alone = [v if isinstance(v, bytes) else v.tobytes() for v in values.values()]
        yield b"".join([part for pair in zip(frames, alone, strict=True) for part in pair])
        return
    width = sum(map(len, frames)) + sum(size for _, size in sizes)
    together = np.empty((rows, width), np.uint8)
    at = 0
    for frame, value in zip(frames, values.values(), strict=True):
        for part in (frame, value):
            own = np.frombuffer(part, np.uint8)[None] if isinstance(part, bytes) else part
            together[:, at : at + own.shape[1]] = own
            at += own.shape[1]
    data = together.tobytes()
    for start in range(0, len(data), width):
        yield data[start : start + width]


@functools.lru_cache(maxsize=1 << 12)
def _frames(sizes: tuple[tuple[str, int], ...]) -> tuple[bytes, ...]:
    """What the wire format of protobuf puts before each value: field numbers and lengths."""
    inner = []
    for name, size in sizes:
        value = b"\x0a" + _varint(size)  # BytesList.value = 1
        feature = b"\x0a" + _varint(len(value) + size) + value  # Feature.bytes_list = 1
        key = b"\x0a" + _varint(len(name)) + name.encode()  # of an entry of the map: key = 1 ...
        entry = key + b"\x12" + _varint(len(feature) + size) + feature  # ... and value = 2
        inner.append(b"\x0a" + _varint(len(entry) + size) + entry)  # Features.feature = 1
    total = sum(map(len, inner)) + sum(size for _, size in sizes)
    return (b"\x0a" + _varint(total) + inner[0], *inner[1:])  # Example.features = 1


def _varint(number: int) -> bytes:
    low = b""
    while number > 127:
        low += bytes([number & 127 | 128])
        number >>= 7
    return low + bytes([number])


_Places = tuple[tuple[str, bytes, int, int], ...]
_SEEN: dict[int, _Places] = {}  # of the last example of a length; most rows are of few lengths


def taken_apart(example: bytes) -> dict[str, bytes]:
    """The values by name of an example as `examples` makes it; others fail or give nonsense."""
    values = {}
    for name, frame, start, stop in _SEEN.get(len(example), ()):
        if not example.startswith(frame, start - len(frame)):
            break
        values[name] = example[start:stop]
    else:
        if values:
            return values
    # Where values lie follows from the frames, so what these say holds wherever they stand again.
    found = _SEEN[len(example)] = _places(example)
    return {name: example[start:stop] for name, _, start, stop in found}


def _places(example: bytes) -> _Places:
    """The name, the frame, and where it begins and ends, of each value."""
    places = []
    done, (_, at) = 0, _number(example, 1)
    while at < len(example):
        _, at = _number(example, at + 1)  # what is nested how: see `_frames`
        size, at = _number(example, at + 1)
        name, at = example[at : at + size].decode(), at + size
        for _ in range(3):
            size, at = _number(example, at + 1)
        places.append((name, example[done:at], at, at + size))
        done = at = at + size
    return tuple(places)


def _number(data: bytes, at: int) -> tuple[int, int]:
    """The varint at a place, and the place behind it."""
    number = shift = 0
    while data[at] > 127:
        number |= (data[at] & 127) << shift
        shift, at = shift + 7, at + 1
    return number | data[at] << shift, at + 1
