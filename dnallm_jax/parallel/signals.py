"""What does a signal do to this process? One asks the run to stop, a second one ends it at once."""

import contextlib
import ctypes
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

from dnallm_jax.parallel import watchdog

_HANDLER = ctypes.CFUNCTYPE(None, ctypes.c_int)
_STOP = (signal.SIGTERM, signal.SIGINT)
_in_use: list[Any] = []  # by C code, which keeps nothing alive


def last_words(sentence: str, code: int) -> None:
    """From now on abort() ends this process with one line and exit code `code`.

    JAX calls it, from a thread of its own, when a peer is lost.
    """
    line = f"\ndnallm_jax on {socket.gethostname()}: {sentence}\n".encode()

    def say(_: int) -> None:
        os.write(2, line)
        os._exit(code)

    # Not by the signal module: its handlers run later, in the main thread, and abort() won't wait.
    handler = _HANDLER(say)
    _in_use.append(handler)
    _exchange(signal.SIGABRT, ctypes.cast(handler, ctypes.c_void_p).value)


def _exchange(number: signal.Signals, handler: int | None) -> int | None:
    """Sets a C handler (None: the default) and returns the address of the one before."""
    function = ctypes.CDLL(None).signal
    function.restype, function.argtypes = ctypes.c_void_p, (ctypes.c_int, ctypes.c_void_p)
    return function(number, handler)


@contextlib.contextmanager
def listening() -> Iterator[Callable[[int], bool]]:
    """Yields `asked`: whether the run shall end after this step, on which all processes agree.

    SIGTERM and SIGINT ask for it; so does the notice of a preemption, wherever JAX hears one. A
    second signal ends the process at once, even in the middle of a compilation. `asked` is called
    with the number of every step, in every process; the watchdog takes it for a sign of life.
    """
    import jax
    from jax.experimental import multihost_utils

    told = threading.Event()
    many = jax.distributed.is_initialized()
    # JAX's own handler of SIGTERM starts the agreement between processes.
    jaxs = _exchange(signal.SIGTERM, None) if many else None
    tell_jax = _HANDLER(jaxs) if jaxs else None
    reader, writer = socket.socketpair()
    writer.setblocking(False)

    def watch() -> None:
        """In a thread of its own, because the main one may be in C code for minutes."""
        while heard := reader.recv(1):
            if heard[0] not in _STOP:
                continue
            name = signal.Signals(heard[0]).name
            if told.is_set():
                os.write(2, f"{name} again: ended at once\n".encode())
                os._exit(128 + heard[0])
            told.set()
            if tell_jax:
                tell_jax(signal.SIGTERM)
            os.write(2, f"{name}: saves after this step and ends; again: ends at once\n".encode())

    handlers = {number: signal.signal(number, lambda *_: None) for number in _STOP}
    before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    threading.Thread(target=watch, name="signals", daemon=True).start()
    agreed = multihost_utils.reached_preemption_sync_point if many else lambda _: told.is_set()

    def asked(step: int) -> bool:
        watchdog.alive(f"step {step}")
        return agreed(step)

    try:
        yield asked
    finally:
        signal.set_wakeup_fd(before)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if jaxs:
            _exchange(signal.SIGTERM, jaxs)
        writer.close()
