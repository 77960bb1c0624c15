"""What is this run, in numbers? The lines that it begins with; nothing in them is left to guess."""

from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import Mesh

from dnallm_jax.config import Optimizer
from dnallm_jax.parallel import mesh as meshes
from dnallm_jax.planning.flops import Peak
from dnallm_jax.training.optimizer import described
from dnallm_jax.training.step import TrainState
from dnallm_jax.training.units import si
from dnallm_jax.training.workdir import code, versions


def _short(count: float) -> str:
    return si(count).strip()


def network(state: TrainState) -> list[str]:
    """The parameters, and what a device holds of the train state."""
    sizes = {"matrices": 0, "embeddings": 0, "norms and biases": 0}
    for path, leaf in jax.tree_util.tree_leaves_with_path(state["params"]):
        name = jax.tree_util.keystr(path)
        small = any(word in name for word in ("norm", "bias", "feature_"))
        sizes[
            "embeddings" if "embedding" in name else "norms and biases" if small else "matrices"
        ] += leaf.size
    kinds = ", ".join(f"{kind} {_short(size)}" for kind, size in sizes.items() if size)
    held = sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(state))
    beside = "moments and running mean" if "ema" in state else "moments"
    return [
        f"parameters  {_short(sum(sizes.values()))} ({kinds}); with {beside} {si(held)}B on each "
        "device"
    ]


def budget(
    *, steps: int, rows: int, parts: int, row_length: int, bases_per_token: float, available: int
) -> list[str]:
    """Batches and epochs of packed rows, `available` of which there are."""
    tokens, epoch = rows * row_length, available / rows
    whole = steps * tokens
    in_parts = f", worked on in {parts} parts of {rows // parts} rows" if parts > 1 else ""
    return [
        f"batch       {rows} rows of {row_length} = {_short(tokens)} tokens = "
        f"{_short(tokens * bases_per_token)} bases{in_parts}",
        f"budget      {steps} steps = {_short(whole)} tokens = {_short(whole * bases_per_token)} "
        f"bases = {steps / epoch:.2f} epochs of {epoch:.4g} steps",
    ]


def due(settings: Any, evaluated: str, state: TrainState) -> list[str]:
    """What happens every so many steps. `settings`: a section of the config that is trained by."""
    whole = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    limit = f", a loss above {settings.spike:g} times the mean of 32" if settings.spike else ""
    then = {
        "stop": "ends the run",
        "leave_out": "is left out, from the last checkpoint on",
        "skip": "moves nothing, and is counted",
    }[settings.on_bad_step]
    kept = f"{settings.keep} and the best kept"
    if settings.keep_every:
        kept += f", and those of every {settings.keep_every} steps"
    return [
        f"every       {settings.log_every} steps a line, {settings.eval_every} validation "
        f"({evaluated}), {settings.save_every} a checkpoint of {si(whole)}B ({kept})",
        f"bad steps   what is not a number{limit} {then}",
    ]


def optimisation(o: Optimizer, steps: int) -> list[str]:
    return [f"optimizer   {line}" for line in described(o, steps)]


def machine(mesh: Mesh, reasons: Sequence[str]) -> list[str]:
    """Devices, mesh and the table of axes; how the network runs on them, and why."""
    device = jax.local_devices()[0]  # a process may ask only its own about memory
    folder = jax.config.values["jax_compilation_cache_dir"]
    kept = f"is kept in {folder}" if folder else "is not kept"
    room = (device.memory_stats() or {}).get("bytes_limit")
    found = versions()
    return [
        f"devices     {jax.device_count()} x {device.device_kind} ({device.platform}"
        f"{f', {si(room)}B each' if room else ''}), processes: {jax.process_count()}",
        *meshes.describe(mesh),
        *reasons,
        f"compiled    code {kept}; JAX_COMPILATION_CACHE_DIR names another folder",
        f"versions    this code {code()}, "
        + ", ".join(f"{name} {found[name]}" for name in ("jax", "jaxlib", "python")),
    ]


def arithmetic(flops_per_token: float, formula: str, tokens: float, peak: Peak) -> list[str]:
    """What a step must compute, and what a share of the peak means.

    Args:
      formula: of flops_per_token, in words; tokens: of the whole run.
    """
    return [
        f"FLOPs       {_short(flops_per_token)} a token = {formula}; "
        f"{_short(flops_per_token * tokens)} in all",
        f"MFU         tokens/s x FLOPs a token / {si(peak.flops)}FLOP/s ({peak.source}); causal "
        "attention counts half, recomputation nothing",
    ]


def changed(lines: Sequence[str]) -> list[str]:
    """What the command line changed in the recipe."""
    return [f"changed     {line}" for line in lines or ["nothing in the recipe"]]


def started(step: int, otherwise: str) -> list[str]:
    """Where the run goes on."""
    return [f"start       {f'step {step} (restored)' if step else otherwise}"]
