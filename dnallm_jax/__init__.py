"""DNA language models in JAX/Flax, and the virus detector that is made from them.

from dnallm_jax import Detector
detector = Detector.load("runs/genomes/bundle")
results = list(detector.score({"contig_1": "ACGT..."}))
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dnallm_jax.scoring.detector import Detector
    from dnallm_jax.scoring.output import Result

__all__ = ["Detector", "Result", "__version__"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Loads what scores (and JAX with it) when it is first asked for."""
    if name == "Detector":
        from dnallm_jax.scoring.detector import Detector

        return Detector
    if name == "Result":
        from dnallm_jax.scoring.output import Result

        return Result
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
