"""Does a step on CPUs work in the memory that the step before it freed?"""

import platform
import resource
import subprocess
import sys
from pathlib import Path

import pytest

# A piece as large as the temporary arrays of a step, taken, written and freed by a thread, as JAX
# does; prints how many pages of memory the last of some rounds asked for.
ROUNDS = """
import ctypes, resource, threading
from dnallm_jax.parallel import heap

{before}
C = ctypes.CDLL(None)
C.malloc.restype = ctypes.c_void_p

def rounds():
    for _ in range(4):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        piece = C.malloc(SIZE)
        C.memset(ctypes.c_void_p(piece), 1, SIZE)
        C.free(ctypes.c_void_p(piece))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

thread = threading.Thread(target=rounds)
thread.start()
thread.join()
"""
SIZE = 100 * 2**20
PAGES = SIZE // resource.getpagesize()


# The options are those of glibc; other C libraries go on as they do, and keep_freed leaves them.
glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is another")


def on_request() -> bool:
    """Whether this kernel gives huge pages to those that ask: a setting of the machine."""
    setting = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    return setting.exists() and "[madvise]" in setting.read_text()


def pages_asked_for(before: str) -> int:
    program = ROUNDS.replace("{before}", before).replace("SIZE", str(SIZE))
    command = [sys.executable, "-c", program]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@glibc
def test_the_memory_of_a_step_is_that_of_the_last_one() -> None:
    options = ("_NO_TRIMMING", "_NO_MAPPING", "_ONE_HEAP")
    small = "heap._ADVICE = 0"  # MADV_NORMAL: of huge pages even the faults would ask for few
    assert pages_asked_for(f"{small}; heap.keep_freed()") < PAGES / 100
    without = [f"heap.{option} = (0, 0); {small}; heap.keep_freed()" for option in options]
    for fault in ("", *without):
        assert pages_asked_for(fault) > PAGES / 2, f"unnoticed: {fault or 'nothing done'}"


HUGE = """
import ctypes
from dnallm_jax.parallel import heap

{before}
C = ctypes.CDLL(None)
C.malloc.restype = ctypes.c_void_p
C.memset(ctypes.c_void_p(C.malloc(SIZE)), 1, SIZE)
with open("/proc/self/smaps_rollup") as lines:
    print(next(int(line.split()[1]) for line in lines if line.startswith("AnonHugePages:")))
"""


def kibibytes_of_huge_pages(before: str) -> int:
    program = HUGE.replace("{before}", before).replace("SIZE", str(SIZE))
    command = [sys.executable, "-c", program]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@glibc
@pytest.mark.skipif(not on_request(), reason="this kernel gives huge pages to all or to none")
def test_a_step_lies_in_huge_pages() -> None:
    assert kibibytes_of_huge_pages("heap.keep_freed()") > SIZE / 2**10 / 2
    for fault in ("", "heap._ADVICE = 0; heap.keep_freed()"):
        assert kibibytes_of_huge_pages(fault) < SIZE / 2**10 / 2, f"unnoticed: {fault or 'nothing'}"
