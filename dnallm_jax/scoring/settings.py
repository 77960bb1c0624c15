"""What does a scoring run use of this machine, and what does it say about itself afterwards?"""

import os
import shlex
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from data_pipeline.errors import UserError
from dnallm_jax import __version__
from dnallm_jax.scoring.output import Calls

if TYPE_CHECKING:  # which loads JAX
    from dnallm_jax.scoring.bundle import Detector

AUTO = "auto"
_CPU_TOKENS, _ACCELERATOR_TOKENS = 1_024, 131_072  # of a batch, on each device
# Flags that change no row, and so are not told with the rows.
_WITHOUT_EFFECT = (
    *("embeddings", "fasta-out", "output", "regions", "summary"),
    *("process", "processes", "quiet", "resume"),
)


def limit_threads(threads: int) -> None:
    """Computes on so many threads (0: one for each core); call it before JAX and numpy are loaded.

    XLA and the BLAS of numpy read these variables once. Unlike a pinning to cores, they let several
    runs share a machine.
    """
    if threads < 0:
        raise UserError(f"--threads={threads}: give a number of threads, or 0 for one a core")
    if threads:
        for name in ("NPROC", "PJRT_NPROC", "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
            os.environ[name] = str(threads)


def batch_tokens(wanted: str) -> int:
    """Tokens of a batch, about; "auto" chooses for the devices in use."""
    if wanted == AUTO:
        import jax

        each = _CPU_TOKENS if jax.devices()[0].platform == "cpu" else _ACCELERATOR_TOKENS
        return each * jax.local_device_count()
    if not wanted.isdecimal() or not int(wanted):
        raise UserError(f"--batch-size={wanted}: give a number of tokens, or {AUTO}")
    return int(wanted)


def command_line(given: Mapping[str, Any], arguments: Sequence[str]) -> str:
    """The command that gives these rows, whatever the files are called that they are written to.

    given: the flags that were set on the command line.
    """
    words = [f"--{name}={given[name]}" for name in sorted(given) if name not in _WITHOUT_EFFECT]
    return shlex.join(["python", "main.py", "score", *words, *arguments])


def provenance(detector: "Detector", calls: Calls, command: str) -> dict[str, Any]:
    """How rows came about, for their readers: plain JSON, equal for equal rows."""
    return {
        "program": "dnallm_jax",
        "version": __version__,
        "bundle": detector.manifest["sha256"],
        "threshold": calls.threshold,
        "false_positive_rate": calls.false_positive_rate,
        "prevalence": calls.prevalence,
        "min_length": calls.min_length,
        "command": command,
    }


def machine(batch: int) -> dict[str, Any]:
    """What the last bits of scores may depend on: plain JSON."""
    import jax

    devices = jax.devices()
    return {
        "batch_tokens": batch,
        "devices": f"{len(devices)} x {devices[0].device_kind}",
        "threads": os.environ.get("NPROC", ""),
        "jax": jax.__version__,
    }
