"""Does a process that hangs though it is alive end, with its place, and one that gets on never?"""

import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[3]
BEFORE = """
import os, signal, time
from data_pipeline import datasets
from dnallm_jax.parallel import watchdog
"""


def ended(program: str) -> tuple[int, str]:
    line = [sys.executable, "-c", BEFORE + program]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stderr


def test_one_that_hangs_ends_with_one_line_that_says_where() -> None:
    code, said = ended(
        "with watchdog.watching(0.3, code=75, tick=0.1), watchdog.watching(0, code=1):\n"
        "    watchdog.alive('step 7')\n"
        "    datasets.describe_sources(time.sleep(60) or '' for _ in range(1))\n"
    )
    assert code == 75
    (line,) = said.strip().splitlines()
    assert (
        ": nothing was done for 0.3 s since step 7; it hangs at data_pipeline/datasets.py" in line
    )
    assert " in describe_sources, or another process does." in line


def test_one_that_gets_on_or_was_suspended_does_not_end() -> None:
    code, said = ended(
        "with watchdog.watching(0.5, code=75, tick=0.1):\n"
        "    for step in range(4):\n"
        "        watchdog.alive(f'step {step}')\n"
        "        time.sleep(0.2)\n"
        "    if os.fork() == 0:\n"
        "        time.sleep(1.5)\n"
        "        os.kill(os.getppid(), signal.SIGCONT)\n"
        "        os._exit(0)\n"
        "    os.kill(os.getpid(), signal.SIGSTOP)\n"
        "time.sleep(0.7)\n"
        "print('ended by itself', file=__import__('sys').stderr)\n"
    )
    assert (code, said) == (0, "ended by itself\n")
