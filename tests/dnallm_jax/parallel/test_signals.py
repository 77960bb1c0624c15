"""Does one signal ask a run to stop, a second one end it at once, and a lost peer end in a line?"""

import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from dnallm_jax.parallel import signals

Program = Callable[[str], subprocess.Popen[str]]
ROOT = pathlib.Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_one_signal_asks_and_leaves_the_handlers_as_they_were(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with signals.listening() as asked:
        assert not asked(1)
        os.kill(os.getpid(), number)
        deadline = time.monotonic() + 30
        while not asked(2) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert asked(3)
    assert signal.getsignal(number) is before
    with signals.listening() as asked:
        assert not asked(1), "another run was not asked"


@pytest.fixture
def program() -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    started = []

    def start(lines: str) -> subprocess.Popen[str]:
        line = [sys.executable, "-c", f"from dnallm_jax.parallel import signals\n{lines}"]
        pipe = subprocess.PIPE
        started.append(subprocess.Popen(line, cwd=ROOT, stdout=pipe, stderr=pipe, text=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_a_second_signal_ends_it_even_in_the_middle_of_other_code(program: Program) -> None:
    # The main thread runs no Python, as in a compilation: a checksum that takes for ever.
    started = program(
        "import hashlib\n"
        "with signals.listening():\n"
        "    print('ready', flush=True)\n"
        "    hashlib.pbkdf2_hmac('sha256', b'', b'', 2_000_000_000)\n"
    )
    assert started.stdout is not None
    assert started.stdout.readline() == "ready\n"
    started.send_signal(signal.SIGTERM)
    assert started.stderr is not None
    assert started.stderr.readline().startswith("SIGTERM: saves after this step and ends")
    assert started.poll() is None
    started.send_signal(signal.SIGINT)
    assert started.wait(timeout=60) == 128 + signal.SIGINT
    assert started.stderr.read() == "SIGINT again: ended at once\n"


def test_where_jax_agrees_on_a_stop_it_is_told_every_time(program: Program) -> None:
    """A run of several parts listens several times."""
    started = program(
        "import itertools, jax, os, signal, socket, time\n"
        "with socket.socket() as found:\n"
        "    found.bind(('127.0.0.1', 0))\n"
        "    address = f'127.0.0.1:{found.getsockname()[1]}'\n"
        "jax.distributed.initialize(address, 1, 0)\n"
        "with signals.listening() as asked:\n"
        "    assert not asked(1)\n"
        "with signals.listening() as asked:\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    for step in itertools.count(2):\n"
        "        if asked(step):\n"
        "            break\n"
        "        time.sleep(0.05)\n"
        "print('stopped', flush=True)\n"
        "os._exit(0)\n"
    )
    assert started.stdout is not None
    assert started.stdout.readline() == "stopped\n"


def test_an_abort_ends_with_one_line_and_the_code_asked_for(program: Program) -> None:
    ended = program("import os\nsignals.last_words('a peer is lost', code=75)\nos.abort()")
    _, said = ended.communicate(timeout=60)
    assert ended.returncode == 75
    assert said.strip().endswith(": a peer is lost")
    assert len(said.split("\n")) == 3, "an empty line, the line, and nothing after it"
