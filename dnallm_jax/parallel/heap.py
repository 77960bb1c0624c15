"""How does a process on CPUs get the memory of its next step? From what the last one freed."""

import ctypes
import os

# Options of mallopt, from malloc.h of glibc, and what they are set to.
_NO_TRIMMING = (-1, -1)  # M_TRIM_THRESHOLD: free memory at the end of the heap is never given back
_NO_MAPPING = (-4, 0)  # M_MMAP_MAX: no piece, large as it may be, is taken beside the heap
_ONE_HEAP = (-8, 1)  # M_ARENA_MAX: threads share it; those that they would have cannot grow so far

_HUGE = 2**21  # bytes of a huge page
_ADVICE = 14  # MADV_HUGEPAGE, from mman.h of Linux


def keep_freed() -> None:
    """Tells the C library to keep what is freed; for training, before JAX starts its threads.

    XLA takes the temporary arrays of a step on CPUs as one piece and frees it afterwards. So large
    a piece glibc asks of the kernel each time, and gives back, and the kernel clears all its pages:
    a fifth of a training step's time (benchmarks/LOG.md, "Against PyTorch on CPU"). From now on the
    process holds until its end the most that it has held. C libraries other than glibc go on as
    they do.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        for option, value in (_NO_TRIMMING, _NO_MAPPING, _ONE_HEAP):
            libc.mallopt(option, value)
        _ask_for_huge_pages(libc)


def _ask_for_huge_pages(libc: ctypes.CDLL) -> None:
    """Stretches the heap, of addresses alone, over which the kernel may use huge pages.

    A step goes through hundreds of megabytes again and again: of pages of 4 KiB no table of the
    processor holds so many. A kernel that will not do it leaves everything as it was.
    """
    libc.malloc.restype = ctypes.c_void_p
    size = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 4
    piece = libc.malloc(ctypes.c_size_t(size))
    if piece is not None:
        begin = -(-piece // _HUGE) * _HUGE
        whole = (piece + size - begin) // _HUGE * _HUGE
        libc.madvise(ctypes.c_void_p(begin), ctypes.c_size_t(whole), _ADVICE)
        libc.free(ctypes.c_void_p(piece))
