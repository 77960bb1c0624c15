"""Which device holds which part of which array? The mesh, and the one table of axes."""

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental.mesh_utils import create_device_mesh, create_hybrid_device_mesh
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from data_pipeline.errors import UserError
from dnallm_jax.model.gpt import GPTSpec

AXES = ("data", "fsdp", "tensor", "sequence")

# The one table: the logical axis of an array -> the mesh axes that it is split over.
RULES: dict[str, tuple[str, ...]] = {
    "batch": ("data", "fsdp"),
    "length": ("sequence",),
    "embed": ("fsdp",),
    "heads": ("tensor",),
    "kv_heads": ("tensor",),
    "row_heads": ("tensor", "sequence"),  # heads in attention, which looks at whole rows
    "mlp": ("tensor",),
    "layers": (),
}


def make_mesh(
    data: int = 1, fsdp: int = -1, tensor: int = 1, sequence: int = 1, *, devices: Any = None
) -> Mesh:
    """A mesh of all devices (or those given); one size may be -1 and takes what is left.

    Axes are of type Auto: the compiler moves data as it must, and `jnp` code needs no annotations.
    Where TPUs form several slices, joined by a slower network, `data` goes across them: it is the
    axis along which least is sent (gradients, once a step).
    """
    devices = jax.devices() if devices is None else list(devices)
    sizes = [data, fsdp, tensor, sequence]
    known = int(np.prod([s for s in sizes if s != -1]))
    if -1 in sizes and known > 0 and len(devices) % known == 0:
        sizes[sizes.index(-1)] = len(devices) // known
    if int(np.prod(sizes)) != len(devices) or min(sizes) < 1:
        given = zip(AXES, (data, fsdp, tensor, sequence), strict=True)
        asked = ", ".join(f"{axis}={size}" for axis, size in given)
        raise UserError(
            f"mesh {asked} does not cover the {len(devices)} devices; "
            f"set --config.mesh.* so that their product is {len(devices)} (one may be -1)"
        )
    kinds = (AxisType.Auto,) * len(AXES)
    slices = _slices(devices)
    # Two axes may share a dimension of the torus (8 x 8 on 4 x 4 x 4 chips), where they must.
    shared = {"allow_split_physical_axes": True}
    if slices == 1:
        return Mesh(create_device_mesh(sizes, devices, **shared), AXES, axis_types=kinds)
    if sizes[0] % slices:
        raise UserError(
            f"mesh.data = {sizes[0]} does not divide over the {slices} slices of this TPU; make "
            f"--config.mesh.data a multiple of {slices}, or -1"
        )
    within, across = (sizes[0] // slices, *sizes[1:]), (slices, 1, 1, 1)
    placed = create_hybrid_device_mesh(within, across, devices, **shared)
    return Mesh(placed, AXES, axis_types=kinds)


def _slices(devices: Iterable[Any]) -> int:
    """How many parts of a TPU, each with its own fast network, the devices lie in.

    Other devices may carry a slice's number too (a host's, on GPUs), but are as far from their
    neighbours in one slice as from those in the next.
    """
    return len({getattr(d, "slice_index", 0) if d.platform == "tpu" else 0 for d in devices})


def sharding(mesh: Mesh, *logical: str | None) -> NamedSharding:
    """The sharding of an array whose axes have these logical names (None: not split)."""
    return NamedSharding(
        mesh, PartitionSpec(*((RULES[name] or None) if name else None for name in logical))
    )


def tree_shardings(mesh: Mesh, axes: Any) -> Any:
    """NamedShardings in the structure of a tree of logical axis names (`gpt.logical_axes`)."""
    return jax.tree.map(
        lambda names: sharding(mesh, *names), axes, is_leaf=lambda x: isinstance(x, tuple)
    )


def check_divides(mesh: Mesh, spec: GPTSpec) -> None:
    """UserError where a dimension of the model does not divide over its mesh axes."""
    for name, logical, size in (
        ("model.width", "embed", spec.width),
        ("model.heads", "heads", spec.heads),
        ("model.heads", "row_heads", spec.heads),
        ("model.kv_heads", "kv_heads", spec.kv_heads),
        ("model.feed_forward", "mlp", spec.feed_forward),
    ):
        _check(mesh, name, logical, size)


def check_batch(mesh: Mesh, name: str, rows: int) -> None:
    """UserError where a global batch of `rows` (config key `name`) does not divide evenly."""
    _check(mesh, name, "batch", rows)


def check_row(mesh: Mesh, name: str, tokens: int) -> None:
    """UserError where a row of so many tokens (config key `name`) does not divide evenly."""
    _check(mesh, name, "length", tokens)


def check_whole_rows(mesh: Mesh) -> None:
    """UserError where the mesh splits rows, which only pre-training does."""
    if mesh.shape["sequence"] > 1:
        raise UserError(
            f"mesh.sequence = {mesh.shape['sequence']} splits rows, which is for the long ones of "
            "pretrain: windows to classify are short and of many lengths; set "
            "--config.mesh.sequence=1"
        )


def _check(mesh: Mesh, name: str, logical: str, size: int) -> None:
    parts = int(np.prod([mesh.shape[a] for a in RULES[logical]]))
    if size % parts:
        raise UserError(
            f"{name} = {size} does not divide over the {parts} parts of the mesh axes "
            f"{' x '.join(RULES[logical])}; make it a multiple of {parts}, "
            "or change --config.mesh.*"
        )


def describe(mesh: Mesh) -> list[str]:
    """The mesh and the axis table, in lines for the run header."""
    shape = " x ".join(f"{axis}={size}" for axis, size in mesh.shape.items())
    table = ", ".join(f"{k}->{'+'.join(v) or '-'}" for k, v in RULES.items())
    slices = _slices(mesh.devices.flat)
    across = f" in {slices} slices, data across them" if slices > 1 else ""
    return [f"mesh        {shape} ({mesh.devices.size} devices{across})", f"axes        {table}"]


def batch_part(mesh: Mesh) -> tuple[int, int]:
    """(which, of how many): the part of a global batch's rows that this process's devices hold.

    Processes among which only a tensor or a sequence axis lies hold the same part.
    """
    rows = mesh.devices.reshape(-1, mesh.shape["tensor"] * mesh.shape["sequence"])
    held: dict[int, set[int]] = {}
    for row, device in ((n, d) for n, devices in enumerate(rows) for d in devices):
        held.setdefault(device.process_index, set()).add(row)
    parts = sorted({tuple(sorted(part)) for part in held.values()})
    if sum(map(len, parts)) != len(rows) or len({len(part) for part in parts}) > 1:
        raise UserError(
            f"mesh {dict(mesh.shape)} gives the processes unequal parts of a batch; make "
            "--config.mesh.tensor x sequence a divisor or a multiple of a process's devices"
        )
    return parts.index(tuple(sorted(held[jax.process_index()]))), len(parts)


def own_rows(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, np.ndarray]:
    """This process's rows of a global batch that every process has whole."""
    part, parts = batch_part(mesh)
    return {key: np.split(value, parts)[part] for key, value in batch.items()}


def to_device(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """This process's rows of a global batch -> global arrays, split over the batch axes."""
    with jax.transfer_guard_host_to_device("allow"):  # this transfer is meant
        return {
            key: jax.make_array_from_process_local_data(
                sharding(mesh, "batch", *(None,) * (value.ndim - 1)), value
            )
            for key, value in batch.items()
        }
