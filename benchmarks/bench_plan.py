"""Does every preset fit the TPUs that it is meant for, and what bounds its speed there?

    python -m benchmarks.bench_plan [--only=TEXT] [--keep=plans.jsonl]

Compiles the pre-training step of each preset for each topology with the compiler of TPUs
(requirements-tpu.txt; no TPU is needed), minutes each, and prints a row of a table for each. Then
steps on rows of 131,072 tokens; then one small model on 8 to 1,024 chips with equal work for each:
bytes over the network per chip should stay what they are. What --keep names is not compiled again.
`--only=8` is a part of a row's name.
"""

import argparse
import importlib
import json
import os
import pathlib
import time
from collections.abc import Iterator
from typing import Any

from data_pipeline.errors import UserError
from dnallm_jax.commands import steps
from dnallm_jax.config import resolve
from dnallm_jax.planning import topology, trial
from dnallm_jax.planning.chips import GIB
from dnallm_jax.planning.collectives import DCN, ICI

# Preset, topology, slices, what differs from the preset.
PRESETS: list[tuple[str, str, int, dict[str, Any]]] = [
    *((name, "v5e:2x4", 1, {}) for name in ("gpt_1b", "gpt_350m", "gpt_125m", "gpt_25m")),
    # Parameters are split over sixteen chips and copied over `data`: split over all, their parts
    # are too small to scatter into (WEAK, below).
    *(
        ("gpt_1b", where, slices, {"mesh.data": data, "pretrain.batch_rows": rows})
        for where, slices, data, rows in (
            ("v5p:8x8x8", 1, 32, 2048),
            ("v5e:16x16", 1, 16, 1024),
            ("v5e:16x16", 2, 32, 2048),
        )
    ),
    *((name, "v6e:2x4", 1, {}) for name in ("gpt_1b", "gpt_350m", "gpt_125m", "gpt_25m")),
]
# Rows of 131,072 tokens, each split over chips.
LONG: list[tuple[str, str, int, dict[str, Any]]] = [
    (
        name,
        where,
        1,
        {"corpus.row_length": 131_072, "mesh.sequence": sequence, "pretrain.batch_rows": rows},
    )
    for name, where, sequence, rows in (
        ("gpt_125m", "v5e:2x4", 8, 1),
        ("gpt_125m", "v5e:2x4", 4, 2),
        ("gpt_125m", "v5e:4x4", 8, 2),
    )
]
# Equal work for each chip: one row of 512, on 8, 64, 512 and 1,024 chips of v5p. Parameters are
# split over eight, whatever their number: over all of 1,024, parts are too small to scatter into.
SCALED = {
    "model.width": 1024,
    "model.layers": 8,
    "model.heads": 8,
    "model.kv_heads": 8,
    "model.feed_forward": 2048,
    "corpus.row_length": 512,
    "execution.remat": "block",
}
WEAK: list[tuple[str, str, int, dict[str, Any]]] = [
    ("gpt_25m", name, 1, {**SCALED, "mesh.data": chips // 8, "pretrain.batch_rows": chips})
    for name, chips in (
        ("v5p:2x2x2", 8),
        ("v5p:4x4x4", 64),
        ("v5p:8x8x8", 512),
        ("v5p:8x8x16", 1024),
    )
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="")
    parser.add_argument("--keep", type=pathlib.Path)
    options = parser.parse_args()
    os.environ["JAX_PLATFORMS"] = "cpu"  # the TPU of this machine, if any, is left alone
    kept = dict(_kept(options.keep))
    for title, cases in (("presets", PRESETS), ("long rows", LONG), ("weak scaling", WEAK)):
        print(f"\n{title}\n\n{HEAD}")
        for case in cases:
            key = f"{case[0]} {case[1]} x{case[2]} {json.dumps(case[3], sort_keys=True)}"
            if options.only not in key:
                continue
            if key not in kept:
                kept[key] = _measured(*case)
                if options.keep:
                    with options.keep.open("a") as file:
                        file.write(json.dumps([key, kept[key]]) + "\n")
            print(row(kept[key]), flush=True)


def _kept(path: pathlib.Path | None) -> Iterator[tuple[str, dict[str, Any]]]:
    if path and path.exists():
        for line in path.read_text().splitlines():
            yield json.loads(line)


def _measured(name: str, where: str, slices: int, changes: dict[str, Any]) -> dict[str, Any]:
    recipe = importlib.import_module(f"configs.{name}").get_config()
    recipe.update_from_flattened_dict(changes)
    config = resolve(recipe)
    found = topology.describe(where, slices)
    start = time.process_time()
    verdict = trial.assess(steps.pretrain(config, found.devices), found)
    result: dict[str, Any] = {
        "preset": name,
        "topology": str(found),
        "mesh": {axis: n for axis, n in verdict.step.mesh.shape.items() if n > 1},
        "rows": config.pretrain.batch_rows,
        "row_length": config.corpus.row_length,
        "remat": config.execution.remat,
        "compile_cpu_seconds": time.process_time() - start,
    }
    if not verdict.fits:
        raise UserError(trial.too_large(verdict))
    assert verdict.bound
    sent = trial.network_bytes(verdict)
    return result | {
        "peak": verdict.peak,
        "usable": found.chip.memory,
        "collectives": sum(c.times for c in verdict.exchanged),
        "largest": max((c.bytes for c in verdict.exchanged), default=0),
        "ici": sent[ICI],
        "dcn": sent[DCN],
        "bound": vars(verdict.bound),
        "mfu": verdict.mfu,
        "tokens_per_second": verdict.step.work.tokens / verdict.bound.seconds,
    }


HEAD = """\
| preset | topology, mesh | rows x length, remat | peak GiB (of) | collectives, largest MB | \
ICI, DCN MB a chip | ms: arithmetic, memory, ICI, DCN | MFU at most | M tokens/s |
|---|---|---|---|---|---|---|---|---|"""


def row(found: dict[str, Any]) -> str:
    """A line of the table."""
    mesh = " ".join(f"{axis}={n}" for axis, n in found["mesh"].items())
    times = ", ".join(f"{1e3 * seconds:.3g}" for seconds in found["bound"].values())
    cells = (
        found["preset"],
        f"{found['topology']}, {mesh}",
        f"{found['rows']} x {found['row_length']:,}, {found['remat']}",
        f"{found['peak'] / GIB:.2f} ({found['usable'] / GIB:.2f})",
        f"{found['collectives']:,}, {found['largest'] / 1e6:.3g}",
        f"{found['ici'] / 1e6:,.4g}, {found['dcn'] / 1e6:,.4g}",
        times,
        f"{found['mfu']:.0%}",
        f"{found['tokens_per_second'] / 1e6:.3g}",
    )
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
