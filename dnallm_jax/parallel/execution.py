"""How does the model run on this platform, and why? Every "auto" of the config is settled here."""

import dataclasses
import functools
import os

import jax
from jax.sharding import Mesh

from data_pipeline.errors import UserError
from dnallm_jax.model.gpt import Execution
from dnallm_jax.parallel.mesh import sharding
from dnallm_jax.parallel.sharing import share_out


def choose(
    dtype: str = "auto",
    attention: str = "auto",
    unroll: str = "auto",
    remat: str = "none",
    *,
    device: jax.Device | None = None,
) -> tuple[Execution, list[str]]:
    """The execution for the devices in use, and lines for the run header that say why.

    Args:
      device: one of other devices that it is for, if any: those of a mesh that is not at hand.

    Raises:
      UserError: remat "offload" on devices without a memory of the host beside their own, an
        attention that these devices do not run.
    """
    device = device or jax.devices()[0]
    cpu = device.platform == "cpu"
    if remat == "offload" and (cpu or not _sees_host_memory(device)):
        raise UserError(
            "execution.remat offload moves activations to the host's memory, which "
            f"{device.platform} devices {'work in already' if cpu else 'do not reach'}; set "
            "--config.execution.remat=dots, or =block"
        )
    lines = []

    def settle(name: str, asked: str, auto: str, why: str) -> str:
        """Takes what was asked for, and says what would be taken by itself."""
        told = why if asked == "auto" else f"as the config says; auto is {auto}: {why}"
        lines.append(f"{name:<12}{auto if asked == 'auto' else asked} ({told})")
        return auto if asked == "auto" else asked

    why = "this CPU path has no fast bfloat16" if cpu else "matrix units take bfloat16"
    auto = "float32" if cpu else "bfloat16"
    dtype = settle("precision", dtype, auto, f"{why}; parameters are float32")
    attention = settle("attention", attention, *_attention(device.platform))
    _check_attention(attention, device)
    unroll = settle("unroll", unroll, *_unrolled(device.platform, remat))
    lines.append(f"remat       {remat} ({_REMAT[remat]})")
    run = Execution(dtype=dtype, attention=attention, unroll=unroll == "yes", remat=remat)
    return run, lines


# What the backward pass computes again.
_REMAT = {
    "none": "activations are kept, nothing is computed again",
    "block": "of each block its input is kept, all else computed again",
    "dots": "products with parameters are kept, all else computed again",
    "offload": "products with parameters are kept by the host, all else computed again",
}

# The attention that is a kernel of a platform, and why.
_KERNELS = {
    "tpu": ("splash", "a fused kernel; leaves out what the causal mask or a window hides"),
    "gpu": ("flash", "a fused kernel; leaves out what mask, window or segments hide"),
}
_FEW_CORES = 2  # of a device; more of them are worth the waiting for each other


def _attention(platform: str) -> tuple[str, str]:
    if platform in _KERNELS:
        return _KERNELS[platform]
    why = "plain XLA, memory linear in the row; no fused kernel for this platform"
    if platform == "cpu" and (os.cpu_count() or 1) <= _FEW_CORES * jax.local_device_count("cpu"):
        return "headwise", f"{why}; few cores do one head after the other"
    return "blockwise", why


def _unrolled(platform: str, remat: str) -> tuple[str, str]:
    if platform == "cpu":
        return "yes", "runs faster on CPU than a scan"
    if platform == "gpu" and remat == "none":
        return "yes", "a scan on GPUs copies what layers keep for the backward pass"
    return "no", "a scan compiles one body for any depth"


def _check_attention(attention: str, device: jax.Device) -> None:
    for platform, (kernel, _) in _KERNELS.items():
        if attention == kernel and device.platform != platform:
            raise UserError(
                f"execution.attention {kernel} is a kernel for {platform} devices and these are "
                f"{device.platform}; set --config.execution.attention=auto, or =blockwise"
            )


def _sees_host_memory(device: jax.Device) -> bool:
    return "pinned_host" in {memory.kind for memory in device.addressable_memories()}


def on_mesh(run: Execution, mesh: Mesh) -> Execution:
    """The same, with every row of a batch worked on where the axis table puts it.

    To it come whole matrices, layer by layer, but for what is split along `tensor`.
    """
    rows = sharding(mesh, "batch", "length")
    if mesh.devices.size == 1:
        return dataclasses.replace(run, rows=rows)
    return dataclasses.replace(
        run,
        rows=rows,
        share_out=functools.partial(share_out, mesh=mesh),
        gather=functools.partial(_gathered, mesh),
    )


def _gathered(mesh: Mesh, matrix: jax.Array, axes: tuple[str | None, ...]) -> jax.Array:
    kept = (None if name == "embed" else name for name in axes)
    return jax.lax.with_sharding_constraint(matrix, sharding(mesh, *kept))
