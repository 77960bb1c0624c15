"""Does this process get on? One that is alive but does nothing ends, with a line that says where.

JAX notices a peer that died or was frozen, because nothing comes from it any more. A process that
waits for ever (a file system that went away, a deadlock, a collective that a peer never joins)
still sends its heartbeats, and would keep all of the job.
"""

import contextlib
import dataclasses
import os
import pathlib
import socket
import sys
import threading
from collections.abc import Iterator

_ROOT = pathlib.Path(__file__).resolve().parents[2]
_HERE = tuple(str(_ROOT / package) for package in ("dnallm_jax", "data_pipeline"))


@dataclasses.dataclass
class _Last:
    """What was done last, and the seconds that this process has run since then."""

    done: str = "the start"
    quiet: float = 0.0


_last = _Last()


def alive(done: str) -> None:
    """Says that this process has got on by something; it starts the watch's time anew."""
    _last.done, _last.quiet = done, 0.0


@contextlib.contextmanager
def watching(seconds: float, code: int, *, tick: float = 1.0) -> Iterator[None]:
    """While the context lasts, ends the process with `code` once nothing was `alive` for so long.

    Args:
      seconds: counted while the process runs: the time that it was suspended is none; 0: no watch.
    """
    over = threading.Event()

    def watch() -> None:
        while not over.wait(tick):
            _last.quiet += tick
            if _last.quiet > seconds:
                os.write(2, _line(seconds).encode())
                os._exit(code)

    alive(_Last.done)
    if seconds:
        threading.Thread(target=watch, name="watchdog", daemon=True).start()
    try:
        yield
    finally:
        over.set()


def _line(seconds: float) -> str:
    return (
        f"\ndnallm_jax on {socket.gethostname()}: nothing was done for {seconds:g} s since "
        f"{_last.done}; it hangs{_place()}, or another process does. The last whole checkpoint is "
        "untouched: start all of them again (--hang_minutes allows more time)\n"
    )


def _place() -> str:
    """Where in this project the main thread is, as " at FILE:LINE in FUNCTION"; "" elsewhere."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    while frame and not frame.f_code.co_filename.startswith(_HERE):
        frame = frame.f_back
    if not frame:
        return ""
    path = pathlib.Path(frame.f_code.co_filename).relative_to(_ROOT)
    return f" at {path}:{frame.f_lineno} in {frame.f_code.co_name}"
