"""Is the attention of each platform chosen, refused elsewhere, and taken by the real compiler?"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from data_pipeline.errors import UserError
from dnallm_jax.model import gpt
from dnallm_jax.model.attention import attention
from dnallm_jax.parallel.execution import choose, on_mesh
from dnallm_jax.parallel.mesh import describe, make_mesh, sharding
from dnallm_jax.parallel.sharing import share_out
from tests.dnallm_jax.tiny import RUN, SPEC
from tests.dnallm_jax.tpus import described, tpu_compiler

TRITON = "__gpu$xla.gpu.triton"


@dataclasses.dataclass(frozen=True)
class Device:
    """As much of a device as a choice looks at."""

    platform: str

    def addressable_memories(self) -> list[Any]:
        return []


@pytest.mark.parametrize(
    ("platform", "attention", "why"),
    [
        ("tpu", "splash", "a fused kernel"),
        ("gpu", "flash", "a fused kernel"),
        ("axon", "blockwise", "plain XLA, memory linear in the row; no fused kernel"),
    ],
)
def test_a_platform_has_its_attention_and_the_header_says_why(
    platform: str, attention: str, why: str
) -> None:
    device: Any = Device(platform)
    run, lines = choose(device=device)
    assert run.attention == attention
    assert any(line.startswith(f"attention   {attention} ({why}") for line in lines)


@pytest.mark.parametrize(("cores", "attention"), [(2, "headwise"), (3, "blockwise")])
def test_few_cores_of_a_device_do_one_head_after_the_other(
    cores: int, attention: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: cores * jax.local_device_count())
    run, lines = choose()
    assert run.attention == attention
    assert any(line.startswith(f"attention   {attention} (plain XLA, memory") for line in lines)


@pytest.mark.parametrize(
    ("platform", "remat", "unrolled", "why"),
    [
        ("cpu", "block", True, "yes (runs faster on CPU than a scan)"),
        ("gpu", "none", True, "yes (a scan on GPUs copies what layers keep for the backward pass)"),
        ("gpu", "block", False, "no (a scan compiles one body for any depth)"),
        ("tpu", "none", False, "no (a scan compiles one body for any depth)"),
    ],
)
def test_layers_are_unrolled_where_that_is_faster(
    platform: str, remat: str, unrolled: bool, why: str
) -> None:
    device: Any = Device(platform)
    run, lines = choose(remat=remat, device=device)
    assert run.unroll is unrolled
    assert f"unroll      {why}" in lines
    run, lines = choose(unroll="no" if unrolled else "yes", remat=remat, device=device)
    assert run.unroll is not unrolled
    assert any(line.startswith("unroll") and "as the config says" in line for line in lines)


def test_a_kernel_is_refused_where_it_does_not_run() -> None:
    for kernel, platform in (("splash", "tpu"), ("flash", "gpu")):
        with pytest.raises(UserError) as error:
            choose(attention=kernel)
        assert str(error.value) == (
            f"execution.attention {kernel} is a kernel for {platform} devices and these are cpu; "
            "set --config.execution.attention=auto, or =blockwise"
        )
        device: Any = Device(platform)
        assert choose(attention=kernel, device=device)[0].attention == kernel


def test_whole_matrices_come_to_the_rows_but_for_what_tensor_splits() -> None:
    run, asked = on_mesh(RUN, make_mesh(1, 4, 2)), []
    assert run.gather is not None
    wq, axes = jnp.zeros((8, 4, 8)), gpt.MATRICES["wq"]
    lies = jax.jit(run.gather, static_argnums=1)(wq, axes).sharding.shard_shape(wq.shape)
    assert lies == (8, 2, 8)

    def gather(matrix: jax.Array, axes: tuple[str | None, ...]) -> jax.Array:
        asked.append(axes)
        return matrix

    spied = dataclasses.replace(run, gather=gather)
    places = jax.ShapeDtypeStruct((8, 16), "int32")
    params = jax.eval_shape(functools.partial(gpt.initialise, gpt.Backbone, SPEC, seed=0))
    states = functools.partial(gpt.hidden_states, spec=SPEC, run=spied)
    jax.eval_shape(
        lambda p, x: states(p, tokens_BL=x, segment_ids_BL=x, positions_BL=x), params, places
    )
    assert set(asked) == set(gpt.MATRICES.values())
    assert len(asked) % len(gpt.MATRICES) == 0


def compiled(name: str, sizes: tuple[int, ...], devices: list[jax.Device]) -> str:
    """The program of a gradient of attention on a mesh of devices that are not at hand."""
    mesh = make_mesh(*sizes, devices=devices)

    def array(dtype: str, *axes: tuple[int, str | None]) -> jax.ShapeDtypeStruct:
        shape, names = zip(*axes, strict=True)
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding(mesh, *names))

    rows = ((2 * sizes[0] * sizes[1], "batch"), (512, "length"))
    q = array("bfloat16", *rows, (4, "heads"), (64, None))
    kv = array("bfloat16", *rows, (2, "kv_heads"), (64, None))
    segment_ids = array("int32", rows[0], (512, None))
    attend = share_out(functools.partial(attention, causal=True, backend=name), mesh=mesh)

    def loss(q: jax.Array, k: jax.Array, v: jax.Array, segment_ids: jax.Array) -> jax.Array:
        return jnp.sum(attend(q, k, v, segment_ids).astype(jnp.float32))

    gradient = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))
    return gradient.lower(q, kv, kv, segment_ids).compile().as_text()


def test_the_kernel_of_gpus_is_lowered_for_them() -> None:
    def loss(q: jax.Array, kv: jax.Array, segment_ids: jax.Array) -> jax.Array:
        o = attention(q, kv, kv, segment_ids, window=100, backend="flash")
        return jnp.sum(o.astype(jnp.float32))

    heads = (jax.ShapeDtypeStruct((2, 200, heads, 32), "bfloat16") for heads in (4, 2))
    lowered = jax.export.export(
        jax.jit(jax.grad(loss, argnums=(0, 1))),
        platforms=["cuda"],
        disabled_checks=[jax.export.DisabledSafetyCheck.custom_call(TRITON)],
    )
    try:
        exported = lowered(*heads, jax.ShapeDtypeStruct((2, 200), "int32"))
    except RuntimeError as error:
        pytest.skip(f"this JAX lowers for a GPU only where there is one ({error})")
    # Forward, and backward for queries and for keys.
    assert exported.mlir_module().count(f"@{TRITON}(") == 3


@tpu_compiler
@pytest.mark.parametrize("topology", ["v5e:2x2", "v6e:2x2"])
def test_the_tpu_compiler_takes_the_kernel_on_split_rows(topology: str) -> None:
    program = compiled("splash", (1, 2, 1, 2), described(topology))
    # Forward, and backward for queries and for keys; queries, keys, values and output are swapped.
    assert program.count('custom_call_target="tpu_custom_call"') == 3
    assert program.count(" all-to-all(") > 0
    assert program.count(" all-gather(") == 0


@tpu_compiler
def test_the_tpu_compiler_takes_a_mesh_of_two_slices() -> None:
    devices = described("v5e:2x2", slices=2)
    mesh = make_mesh(data=2, fsdp=2, tensor=2, devices=devices)
    assert [{d.slice_index for d in part.flat} for part in mesh.devices] == [{0}, {1}]
    assert "8 devices in 2 slices" in describe(mesh)[0]
    assert "tpu_custom_call" in compiled("splash", (2, 2, 2, 1), devices)
