"""How long does a killed run take from the start of its process to its first step?

    python -m benchmarks.bench_resume --root=GENOMES [--config=configs/smoke.py] [--times=3]

Prepares the recipe's data, pre-trains until the second checkpoint, kills the process, and starts
the same command again and again: each time it is killed at its first line of progress. The cache of
compiled code is warm from the second start on. (The promise: less than 20 s on two cores.)
"""

import argparse
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

ROOT = pathlib.Path(__file__).resolve().parents[1]
SAVE_EVERY = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", required=True)
    parser.add_argument("--config", default="configs/smoke.py")
    parser.add_argument("--times", type=int, default=3)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        recipe = [f"--config={asked.config}", f"--workdir={folder}", f"--config.root={asked.root}"]
        recipe += [f"--config.pretrain.save_every={SAVE_EVERY}", "--config.pretrain.log_every=1"]
        started("prepare", recipe, folder, lambda _: False)
        saved = pathlib.Path(folder) / "pretrain" / "checkpoints" / str(2 * SAVE_EVERY)
        seconds, _ = started("pretrain", recipe, folder, lambda _: saved.exists())
        print(f"to the second checkpoint, with nothing compiled: {seconds:.1f} s")
        for _ in range(asked.times):
            seconds, used = started("pretrain", recipe, folder, lambda line: line[:5] == "step ")
            print(f"resumed, to the first step: {seconds:.1f} s, {used:.1f} s of CPU")


def started(
    command: str, recipe: list[str], folder: str, enough: Callable[[str], bool]
) -> tuple[float, float]:
    """Runs a command to its end, or kills it at a line that is enough: (seconds, those of CPU)."""
    line = [sys.executable, str(ROOT / "main.py"), command, *recipe]
    environment = {**os.environ, "XDG_CACHE_HOME": f"{folder}/cache"}
    before, begun = os.times(), time.perf_counter()
    with subprocess.Popen(
        line, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=environment
    ) as process:
        assert process.stderr
        said, stopped = "", False
        for text in process.stderr:
            said += text
            if enough(text):
                stopped = True
                process.kill()
                break
    if process.returncode and not stopped:
        raise RuntimeError(said)
    after = os.times()
    used = after.children_user + after.children_system
    return time.perf_counter() - begun, used - before.children_user - before.children_system


if __name__ == "__main__":
    main()
