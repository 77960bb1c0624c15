"""Is the loss of a step a number, and near those of the steps before it?"""

import collections
import math
from collections.abc import Iterable, Mapping

# A spike is measured against the mean of so many steps.
STEPS = 32
# More skipped steps than this in a row are another trouble than a few bad records.
_SKIPPED = 10


class BadStep(Exception):
    """A step that must not count: its number, and what is wrong with it."""

    def __init__(self, step: int, why: str) -> None:
        super().__init__(step, why)
        self.step, self.why = step, why


class Guard:
    """Looks at every step's sums, in order.

    Args:
      spike: a loss above so many times the mean of the last 32 is bad; 0: only what is no number.
      recent: the losses of the last steps, where a run goes on.
    """

    def __init__(self, spike: float, recent: Iterable[float] = ()) -> None:
        self._spike = spike
        self._recent = collections.deque(recent, STEPS)
        self._skipped = 0  # in a row

    @property
    def recent(self) -> tuple[float, ...]:
        return tuple(self._recent)

    def check(self, step: int, sums: Mapping[str, float]) -> None:
        """Raises BadStep; `sums` has `loss`, `weight`, `gradient_norm` and perhaps `skipped`."""
        self._skipped = self._skipped + 1 if sums.get("skipped") else 0
        if self._skipped > _SKIPPED:
            raise BadStep(step, f"step {step} is the {self._skipped}th in a row that is skipped")
        if self._skipped:
            return
        loss, norm = float(sums["loss"]) / max(float(sums["weight"]), 1.0), sums["gradient_norm"]
        if not math.isfinite(loss) or not math.isfinite(norm):
            raise BadStep(
                step, f"the loss of step {step} is not a number (gradient norm {norm:.3g})"
            )
        if self._spike and len(self._recent) == STEPS:
            mean = sum(self._recent) / STEPS
            if loss > self._spike * mean:
                raise BadStep(
                    step,
                    f"the loss of step {step}, {loss:.4g}, is above {self._spike:g} times the mean "
                    f"of the {STEPS} steps before it, {mean:.4g}",
                )
        self._recent.append(loss)
