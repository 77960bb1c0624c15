"""What do device and host do, operation by operation, in a few chosen steps?"""

import pathlib
from collections.abc import Callable
from typing import Any

import jax

from dnallm_jax.training.speed import Stopwatch


class Profile:
    """Writes what JAX's profiler sees of some steps, once, for TensorBoard and Perfetto.

    Args:
      folder: of the trace; made when missing.
      steps: the first and the last of them; None: no profile.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        steps: tuple[int, int] | None,
        *,
        watch: Stopwatch,
        say: Callable[[str], None],
    ) -> None:
        self._folder, self._steps, self._watch, self._say = folder, steps, watch, say
        self._running = False

    def at(self, step: int, state: Any) -> None:
        """Before each step: starts or ends the profile when its time has come."""
        if self._steps is None:
            return
        first, last = self._steps
        if self._running and step > last:
            self._end(state)
        elif not self._running and first <= step <= last:
            with self._watch.phase("profile"):
                jax.block_until_ready(state)
                jax.profiler.start_trace(self._folder)
            self._running = True

    def close(self) -> None:
        """Ends what is being recorded, at the end of a run; says so where none of it was."""
        if self._running:
            self._end(None)
        elif self._steps is not None:
            self._say(
                "profile     of steps {} to {}: none, this start did not come to them".format(
                    *self._steps
                )
            )

    def _end(self, state: Any) -> None:
        assert self._steps is not None
        with self._watch.phase("profile"):
            jax.block_until_ready(state)
            jax.profiler.stop_trace()
        self._running, first_last, self._steps = False, self._steps, None
        self._say(
            "profile     of steps {} to {}: tensorboard --logdir={}, or open the *.trace.json.gz "
            "below it in Perfetto".format(*first_last, self._folder)
        )
