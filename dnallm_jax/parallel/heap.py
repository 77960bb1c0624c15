"""How does a process on CPUs get the memory of its next step? From what the last one freed."""

import ctypes

# Options of mallopt, from malloc.h of glibc, and what they are set to.
_NO_TRIMMING = (-1, -1)  # M_TRIM_THRESHOLD: free memory at the end of the heap is never given back
_NO_MAPPING = (-4, 0)  # M_MMAP_MAX: no piece, large as it may be, is taken beside the heap
_ONE_HEAP = (-8, 1)  # M_ARENA_MAX: threads share it; those that they would have cannot grow so far


def keep_freed() -> None:
    """Tells the C library to keep what is freed; for training, before JAX starts its threads.

    XLA takes the temporary arrays of a step on CPUs as one piece and frees it afterwards. So large
    a piece glibc asks of the kernel each time, and gives back, and the kernel clears all its pages:
    a fifth of a training step's time (benchmarks/LOG.md, "Against PyTorch on CPU"). From now on the
    process holds until its end the most that it has held. C libraries other than glibc go on as
    they do.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for option, value in (_NO_TRIMMING, _NO_MAPPING, _ONE_HEAP):
            mallopt(option, value)
