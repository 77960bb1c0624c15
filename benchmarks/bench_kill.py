"""How many random kills does a run survive bit for bit, and how many flipped bits are found?

    python -m benchmarks.bench_kill [--kills=200] [--flips=100] [--seed=0]

Real processes of `pretrain` and `finetune` on a tiny recipe (16 steps, a checkpoint each 4) are
killed by SIGKILL at random moments, also inside a save, and started again by the same command until
one comes to its end; then parameters, optimizer state and metrics.jsonl are compared with those of
a run never killed. After that single bits are flipped at random places of random checkpoint files.
"""

import argparse
import pathlib
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from multiprocessing.process import BaseProcess

import numpy as np

from dnallm_jax.training.checkpoints import saved_steps
from dnallm_jax.training.manifest import Damaged, read_manifest
from tests.dnallm_jax.training.place import Place, assert_equal_runs

COMMANDS = ("pretrain", "finetune")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--flips", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    rng = np.random.default_rng(asked.seed)
    with tempfile.TemporaryDirectory() as folder:
        place = Place(pathlib.Path(folder), steps=16)
        place.run("prepare", "data")
        shutil.copytree(place.folder / "data", place.folder / "whole")
        lasted = {}
        for command in COMMANDS:
            place.run(command, "whole")  # compiles
            shutil.rmtree(place.folder / "whole" / command)
            started = place.start(command, "whole")
            begins(place, "whole", started)
            start = time.monotonic()
            place.ended(started)
            lasted[command] = time.monotonic() - start
        print(f"from the first step to the end: {lasted} s")
        kills = chains = equal = inside = 0
        while kills < asked.kills:
            chains += 1
            shutil.copytree(place.folder / "data", place.folder / "killed")
            shutil.copytree(place.folder / "whole" / "pretrain", place.folder / "killed/pretrain")
            command = COMMANDS[chains % 2]
            shutil.rmtree(place.folder / "killed" / command, ignore_errors=True)
            found = killed_chain(place, command, rng, lasted[command], asked.kills - kills)
            kills, inside = kills + found[0], inside + found[1]
            try:
                assert_equal_runs(*(place.folder / n / command for n in ("whole", "killed")))
                equal += 1
            except AssertionError as error:
                print(f"{command} differs after {found[0]} kills: {error}")
            shutil.rmtree(place.folder / "killed")
            print(f"{kills} kills ({inside} inside a save), {equal} of {chains} runs equal")
        caught = flipped_bits(place.folder / "whole", rng, asked.flips)
        print(f"{caught} of {asked.flips} single-bit flips found")
    if equal < chains or caught < asked.flips:
        sys.exit(1)


def begins(place: Place, workdir: str, started: Sequence[BaseProcess]) -> None:
    """Waits until the first step is about to be done."""
    place.until(started, lambda: b"start  " in place.said(workdir).read_bytes())


def killed_chain(
    place: Place, command: str, rng: np.random.Generator, seconds: float, most: int
) -> tuple[int, int]:
    """Kills a run again and again until it ends by itself: (kills, those that cut a save off)."""
    kills = inside = 0  # a tenth of the kills come before the first step
    checkpoints = place.folder / "killed" / command / "checkpoints"
    while True:
        started = place.start(command, "killed")
        if kills == most:
            started[0].join()
        elif rng.random() < 0.1:
            started[0].join(rng.uniform(0, 2))
        else:
            begins(place, "killed", started)
            started[0].join(rng.uniform(0, seconds))
        if started[0].exitcode is None:
            started[0].kill()
            started[0].join()
            kills += 1
            inside += any(checkpoints.glob("*.unfinished"))
            continue
        if started[0].exitcode != 0:
            raise RuntimeError(place.said("killed").read_text())
        return kills, inside


def flipped_bits(workdir: pathlib.Path, rng: np.random.Generator, count: int) -> int:
    """Flips one bit of one file `count` times; how often the checkpoint was then called damaged."""
    folders = [
        workdir / command / "checkpoints" / str(step)
        for command in COMMANDS
        for step in saved_steps(workdir / command / "checkpoints")
    ]
    found = 0
    for _ in range(count):
        folder = folders[rng.integers(len(folders))]
        files = sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)
        path = files[rng.integers(len(files))]
        whole = path.read_bytes()
        changed = bytearray(whole)
        bit = int(rng.integers(8 * len(whole)))
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        try:
            read_manifest(folder)
            print(f"not found: bit {bit} of {path}")
        except Damaged as error:
            found += str(path) in str(error)
        path.write_bytes(whole)
    return found


if __name__ == "__main__":
    main()
