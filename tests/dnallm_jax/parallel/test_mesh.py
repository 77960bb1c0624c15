"""Does the mesh cover the devices, the table split what it says, and a mistake get one sentence?"""

import dataclasses
import math
from typing import Any

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from data_pipeline.errors import UserError
from dnallm_jax.model.gpt import GPT, logical_axes
from dnallm_jax.parallel import mesh as meshes
from dnallm_jax.parallel.mesh import (
    check_batch,
    check_divides,
    check_row,
    check_whole_rows,
    make_mesh,
    to_device,
)
from tests.dnallm_jax.tiny import SPEC, packed


@pytest.mark.parametrize(
    ("asked", "sizes"),
    [
        ({}, (1, 8, 1, 1)),
        ({"data": 2, "fsdp": -1, "tensor": 2}, (2, 2, 2, 1)),
        ({"data": -1, "fsdp": 4}, (2, 4, 1, 1)),
        ({"data": 8, "fsdp": 1}, (8, 1, 1, 1)),
        ({"fsdp": 2, "sequence": -1}, (1, 2, 1, 4)),
    ],
)
def test_a_mesh_covers_all_devices(asked: dict[str, int], sizes: tuple[int, ...]) -> None:
    mesh = make_mesh(**asked)
    assert tuple(mesh.shape.values()) == sizes
    assert set(mesh.devices.flat) == set(jax.devices())
    assert make_mesh(1, 1, 1, devices=jax.devices()[:1]).devices.size == 1


@pytest.mark.parametrize(
    "asked",
    [
        {"data": 1, "fsdp": 3, "tensor": 1, "sequence": 1},
        {"data": 3, "fsdp": -1, "tensor": 1, "sequence": 1},
        {"data": 16, "fsdp": -1, "tensor": 1, "sequence": 1},
        {"data": -1, "fsdp": -1, "tensor": 1, "sequence": 1},
        {"data": 0, "fsdp": -1, "tensor": 1, "sequence": 1},
        {"data": -2, "fsdp": -4, "tensor": 1, "sequence": 1},
        {"data": 1, "fsdp": 8, "tensor": 1, "sequence": 2},
    ],
)
def test_a_mesh_that_does_not_cover_the_devices_is_refused(asked: dict[str, int]) -> None:
    with pytest.raises(UserError) as error:
        make_mesh(**asked)
    words = ", ".join(f"{axis}={size}" for axis, size in asked.items())
    assert str(error.value) == (
        f"mesh {words} does not cover the 8 devices; set --config.mesh.* so that their product is "
        "8 (one may be -1)"
    )


def test_dimensions_that_do_not_divide_are_refused_by_name() -> None:
    mesh = make_mesh(1, 4, 2)
    check_divides(mesh, SPEC)
    for change, sentence in (
        (
            {"kv_heads": 1},
            "model.kv_heads = 1 does not divide over the 2 parts of the mesh axes tensor; make it "
            "a multiple of 2, or change --config.mesh.*",
        ),
        (
            {"width": 30},
            "model.width = 30 does not divide over the 4 parts of the mesh axes fsdp; make it "
            "a multiple of 4, or change --config.mesh.*",
        ),
        (
            {"heads": 3, "kv_heads": 3},
            "model.heads = 3 does not divide over the 2 parts of the mesh axes tensor; make it "
            "a multiple of 2, or change --config.mesh.*",
        ),
        (
            {"feed_forward": 63},
            "model.feed_forward = 63 does not divide over the 2 parts of the mesh axes tensor; "
            "make it a multiple of 2, or change --config.mesh.*",
        ),
    ):
        with pytest.raises(UserError) as error:
            check_divides(mesh, dataclasses.replace(SPEC, **change))
        assert str(error.value) == sentence


def test_a_batch_that_does_not_divide_is_refused_by_name() -> None:
    mesh = make_mesh(2, 2, 2)
    check_batch(mesh, "pretrain.batch_rows", 8)
    with pytest.raises(UserError) as error:
        check_batch(mesh, "pretrain.batch_rows", 6)
    assert str(error.value) == (
        "pretrain.batch_rows = 6 does not divide over the 4 parts of the mesh axes data x fsdp; "
        "make it a multiple of 4, or change --config.mesh.*"
    )


def test_split_rows_are_refused_where_they_do_not_fit() -> None:
    mesh = make_mesh(1, 2, 1, 4)
    check_divides(mesh, SPEC)
    check_row(mesh, "corpus.row_length", 4096)
    check_whole_rows(make_mesh(1, 4, 2))
    six = dataclasses.replace(SPEC, heads=6, kv_heads=6)
    for refuse, sentence in (
        (
            lambda: check_divides(mesh, six),
            "model.heads = 6 does not divide over the 4 parts of the mesh axes tensor x sequence; "
            "make it a multiple of 4, or change --config.mesh.*",
        ),
        (
            lambda: check_row(mesh, "corpus.row_length", 1023),
            "corpus.row_length = 1023 does not divide over the 4 parts of the mesh axes sequence; "
            "make it a multiple of 4, or change --config.mesh.*",
        ),
        (
            lambda: check_whole_rows(mesh),
            "mesh.sequence = 4 splits rows, which is for the long ones of pretrain: windows to "
            "classify are short and of many lengths; set --config.mesh.sequence=1",
        ),
    ):
        with pytest.raises(UserError) as error:
            refuse()
        assert str(error.value) == sentence


@dataclasses.dataclass(frozen=True, eq=False)
class Chip:
    """As much of a TPU's chip as says where it is, in slices of so many chips along each axis."""

    id: int
    platform: str = "tpu"
    device_kind: str = "TPU v5 lite"
    shape: tuple[int, int, int] = (2, 2, 1)

    @property
    def slice_index(self) -> int:
        return self.id // math.prod(self.shape)

    @property
    def process_index(self) -> int:
        return self.id // 4

    @property
    def coords(self) -> tuple[int, int, int]:
        x, y, z = self.shape
        return (self.id % x, self.id // x % y, self.id // (x * y) % z)

    @property
    def core_on_chip(self) -> int:
        return 0


@pytest.mark.parametrize("slices", [1, 2])
@pytest.mark.parametrize("kind", ["TPU v4", "TPU v5", "TPU v6 lite"])
def test_two_axes_may_share_a_dimension_of_the_torus(kind: str, slices: int) -> None:
    chips = [Chip(n, device_kind=kind, shape=(4, 4, 4)) for n in range(64 * slices)]
    mesh = make_mesh(data=-1, fsdp=8, devices=chips)
    assert mesh.shape["data"] == 8 * slices
    assert set(mesh.devices.flat) == set(chips)
    # The eight that share parameters are neighbours: a brick of four by two by one.
    for group in mesh.devices.reshape(-1, 8):
        places = np.array([chip.coords for chip in group])
        assert sorted(np.ptp(places, axis=0) + 1) == [1, 2, 4]


def test_only_data_goes_across_slices() -> None:
    chips = [Chip(n) for n in range(8)]
    mesh = make_mesh(data=-1, fsdp=2, tensor=2, devices=chips[::-1])
    assert tuple(mesh.shape.values()) == (2, 2, 2, 1)
    assert [{d.slice_index for d in part.flat} for part in mesh.devices] == [{0}, {1}]
    assert meshes.describe(mesh)[0] == (
        "mesh        data=2 x fsdp=2 x tensor=2 x sequence=1 (8 devices in 2 slices, data across "
        "them)"
    )
    with pytest.raises(UserError) as error:
        make_mesh(devices=chips)
    assert str(error.value) == (
        "mesh.data = 1 does not divide over the 2 slices of this TPU; make --config.mesh.data a "
        "multiple of 2, or -1"
    )
    # Hosts of GPUs carry the number too, and are one network.
    gpus: list[Any] = [dataclasses.replace(chip, platform="gpu") for chip in chips]
    assert meshes._slices(gpus) == 1


def test_the_table_says_where_each_axis_lies() -> None:
    mesh = make_mesh(2, 2, 2)
    specs = jax.tree.map(
        lambda sharding: sharding.spec, meshes.tree_shardings(mesh, logical_axes(GPT, SPEC))
    )
    blocks = specs["backbone"]["blocks"]
    assert specs["backbone"]["embedding"] == PartitionSpec(None, ("fsdp",))
    assert specs["lm_head"] == PartitionSpec(("fsdp",), None)
    assert blocks["wq"] == PartitionSpec(None, ("fsdp",), ("tensor",), None)
    assert blocks["wo"] == PartitionSpec(None, ("tensor",), None, ("fsdp",))
    assert blocks["down"] == PartitionSpec(None, ("tensor",), ("fsdp",))
    assert blocks["q_norm"] == PartitionSpec(None, None)
    assert meshes.describe(mesh) == [
        "mesh        data=2 x fsdp=2 x tensor=2 x sequence=1 (8 devices)",
        "axes        batch->data+fsdp, length->sequence, embed->fsdp, heads->tensor, "
        "kv_heads->tensor, row_heads->tensor+sequence, mlp->tensor, layers->-",
    ]


def test_a_batch_is_split_over_its_rows_and_stays_as_it_is() -> None:
    mesh = make_mesh(2, 2, 2)
    batch = {**packed([[16]] * 8, 16), "labels": np.arange(8, dtype=np.float32)}
    with jax.transfer_guard("disallow"):
        arrays = to_device(batch, mesh)
    for key, value in batch.items():
        assert arrays[key].dtype == value.dtype
        np.testing.assert_array_equal(arrays[key], value)
        # 4 parts; the two devices along `tensor` hold the same rows.
        assert {s.data.shape for s in arrays[key].addressable_shards} == {(2, *value.shape[1:])}


@dataclasses.dataclass(frozen=True)
class Device:
    process_index: int


@dataclasses.dataclass(frozen=True)
class Laid:
    """As much of a mesh as says which process has which device."""

    devices: np.ndarray
    shape: dict[str, int]


def parts(processes: list[int], tensor: int, monkeypatch: pytest.MonkeyPatch) -> dict:
    """The part of a batch of each process, for devices of these processes in the mesh's order."""
    devices = np.array([Device(p) for p in processes]).reshape(1, -1, tensor)
    sizes = {"data": 1, "fsdp": devices.shape[1], "tensor": tensor, "sequence": 1}
    laid: Any = Laid(devices, sizes)
    turned: Any = Laid(devices, sizes | {"tensor": 1, "sequence": tensor})
    found = {}
    for process in sorted(set(processes)):
        monkeypatch.setattr(meshes.jax, "process_index", lambda process=process: process)
        found[process] = meshes.batch_part(laid)
        assert meshes.batch_part(turned) == found[process], "rows are whole or in parts"
    return found


def test_a_process_reads_the_rows_of_its_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    assert parts([0] * 4 + [1] * 4, 1, monkeypatch) == {0: (0, 2), 1: (1, 2)}
    assert parts([0] * 4 + [1] * 4, 4, monkeypatch) == {0: (0, 2), 1: (1, 2)}
    assert parts([0] * 4 + [1] * 4, 8, monkeypatch) == {0: (0, 1), 1: (0, 1)}
    assert parts([0, 1, 0, 1, 2, 3, 2, 3], 4, monkeypatch) == dict.fromkeys(
        (0, 1), (0, 2)
    ) | dict.fromkeys((2, 3), (1, 2))
    assert parts([0, 1, 0, 1], 1, monkeypatch) == {0: (0, 2), 1: (1, 2)}
    with pytest.raises(UserError, match="gives the processes unequal parts of a batch"):
        parts([0, 0, 0, 1, 1, 1], 2, monkeypatch)
