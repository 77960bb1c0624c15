"""How do processes of this host make batches ahead, where one thread is too slow?

Batch i is a pure function of i, so grain's workers make every n-th one each, and the stream is that
of the thread in `loader.stream`, to the last bit.
"""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from multiprocessing import resource_tracker
from typing import Any

import numpy as np
from absl import flags

from data_pipeline.errors import LostError

_ENDLESS = 1 << 48
_LOST = (
    "a process that makes batches (--workers) was ended from outside, perhaps for lack of memory "
    "(the host's, or /dev/shm: docker run --shm-size); what was saved is whole: start the same "
    "command again, with fewer workers if that was it"
)
_UNTOLD = "ignore::UserWarning:multiprocessing.resource_tracker"
_STOP = {signal.SIGINT, signal.SIGTERM}


def batches(
    batch: Callable[[int], dict[str, np.ndarray]], *, start: int, ahead: int, workers: int
) -> Iterator[dict[str, np.ndarray]]:
    """batch(start), batch(start + 1), ... for ever, made by processes: see `loader.stream`.

    Raises:
      LostError: a process ended before its time.
    """
    import grain

    if not flags.FLAGS.is_parsed():  # a program without absl's flags; grain asks for its own
        flags.FLAGS.mark_as_parsed()
    grain.config.update("py_traceback_filtering", "off")  # it would write into the sentences
    options = grain.MultiprocessingOptions(workers, per_worker_buffer_size=-(-ahead // workers))
    numbers = grain.MapDataset.range(start, start + _ENDLESS)
    # No threads in the workers: 16 of them would make 500 batches ahead, in each.
    made = numbers.map(batch).to_iter_dataset(grain.ReadOptions(0, 0))
    stream = iter(made.mp_prefetch(options, _begin))

    def taken() -> dict[str, np.ndarray]:
        try:
            found = next(stream)
        except RuntimeError as error:
            if not str(error).startswith("Worker process was terminated"):
                raise
            raise LostError(_LOST) from None
        # A copy, because the memory that they share goes with grain's array.
        return {key: np.array(value) for key, value in found.items()}

    close = weakref.finalize(taken, stream.close)  # at the end of the program, too
    try:
        with _stop_signals_held():
            first = [taken()]
        yield first.pop()
        while True:
            yield taken()
    finally:
        close()


@contextlib.contextmanager
def _stop_signals_held() -> Iterator[None]:
    """Processes that are started meanwhile never hear Ctrl-C or SIGTERM, which are the run's."""
    # It removes memory that a killed process leaves, which is no news beside `_LOST`. It is started
    # first, since its own start lets the signals through.
    sys.warnoptions.append(_UNTOLD)
    try:
        resource_tracker.ensure_running()
    finally:
        sys.warnoptions.remove(_UNTOLD)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOP)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin(index: int, workers: int) -> None:
    """Runs in each worker: it ends with the process that it works for, however that one ends."""
    parent: Any = multiprocessing.parent_process()

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, name="follows its parent", daemon=True).start()
