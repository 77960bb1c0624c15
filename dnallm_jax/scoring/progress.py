"""How far is a run? A line on the terminal: bases done, speed, time left."""

import sys
import threading
import time
from collections.abc import Sequence

from data_pipeline.errors import UserError
from data_pipeline.opening import is_regular
from data_pipeline.reading import read_blocks


class Progress:
    """A line on standard error that is written anew as bases are done; a context manager.

    Nothing is shown where standard error is no terminal, or with `quiet`. The total is counted
    beside the scoring, by reading the inputs once more, which takes thousands of times less; where
    they can be read only once, no time left is told. `share` of the bases are to be done.
    """

    def __init__(self, inputs: Sequence[str], *, quiet: bool, share: float = 1.0) -> None:
        self._shown = sys.stderr.isatty() and not quiet
        self._inputs, self._share = inputs, share
        self._total: int | None = None
        self._done = self._before = 0
        self._begin = time.monotonic()
        self._over = threading.Event()

    def __enter__(self) -> "Progress":
        if self._shown and all(map(is_regular, self._inputs)):
            threading.Thread(target=self._count, daemon=True).start()
        return self

    def _count(self) -> None:
        total = 0
        try:
            for block in read_blocks(self._inputs, strict=False):
                total += len(block.bases)
                if self._over.is_set():
                    return
        except UserError:  # the scoring will come to it, and tell
            return
        self._total = round(self._share * total)

    def skip(self, bases: int) -> None:
        """So many bases were done by an earlier run."""
        self._before += bases
        self._done += bases

    def add(self, bases: int) -> None:
        """So many more bases are done."""
        self._done += bases
        if self._shown:
            seconds = max(time.monotonic() - self._begin, 1e-3)
            line = told(self._done, self._done - self._before, seconds, self._total)
            print(f"\r{line}\x1b[K", end="", file=sys.stderr, flush=True)

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def told(done: int, new: int, seconds: float, total: int | None) -> str:
    """'12.3 of 456.7 Mbp, 0.08 Mbp/s, 1:32:10 left': `new` of the `done` bases in `seconds`."""
    rate = new / seconds
    of = "" if total is None else f" of {total / 1e6:,.1f}"
    left = ""
    if total is not None and rate:
        remaining = max(0, round((total - done) / rate))
        minutes, second = divmod(remaining, 60)
        left = f", {minutes // 60}:{minutes % 60:02}:{second:02} left"
    return f"{done / 1e6:,.1f}{of} Mbp, {rate / 1e6:.3g} Mbp/s{left}"
