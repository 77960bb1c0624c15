"""What do tests of checkpoints save? A tiny train state on any mesh; and how is it damaged?"""

import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from dnallm_jax.parallel.mesh import make_mesh, tree_shardings
from dnallm_jax.training.checkpoints import Checkpoints
from dnallm_jax.training.manifest import MANIFEST, Damaged
from dnallm_jax.training.step import state_shardings

Reader = Callable[[pathlib.Path], Any]
METRIC = "bits"
IDENTITY = {"model": {"width": 16}, "data": "abc", "lengths": (300, 500)}
AXES = {
    "backbone": {"embedding": (None, "embed"), "blocks": {"up": ("layers", "embed", "mlp")}},
    "lm_head": ("embed", None),
}
TX = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-2))
HEAD = np.full(16, 7, np.float32)
EIGHT = {"data": 2, "fsdp": 2, "tensor": 2}


def params(seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32)

    return {
        "backbone": {"embedding": normal(6, 16), "blocks": {"up": normal(2, 16, 8)}},
        "lm_head": normal(16, 6),
    }


def mesh_of(devices: int = 8, **sizes: int) -> Mesh:
    return make_mesh(**sizes, devices=jax.devices()[:devices])


def state_on(mesh: Mesh, seed: int = 0) -> dict[str, Any]:
    """A train state whose optimizer has seen a gradient, so that no moment is zero."""
    weights = params(seed)
    gradients = jax.tree.map(lambda x: x / 3 + 1, weights)
    _, moments = TX.update(gradients, TX.init(weights), weights)
    state = {"params": weights, "optimizer": moments, "step": np.int32(seed)}
    return jax.device_put(state, state_shardings(mesh, AXES, TX, weights))


def unlike(a: Any, b: Any) -> list[str]:
    """The names of the leaves of two trees that are not equal bit for bit."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    pairs = zip(jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b), strict=True)
    return [
        jax.tree_util.keystr(path)
        for (path, x), y in pairs
        if np.asarray(x).tobytes() != np.asarray(y).tobytes() or x.dtype != y.dtype
    ]


def opened(folder: pathlib.Path, **options: Any) -> Checkpoints:
    return Checkpoints(folder, **{"keep": 2, "metric": METRIC, "identity": IDENTITY} | options)


def save_all(folder: pathlib.Path, metrics: dict[int, dict[str, float]], **options: Any) -> None:
    """Saves the states of seeds 1, 2, ... as those steps, with the metrics given."""
    kept = opened(folder, **options)
    for step, values in metrics.items():
        kept.save(step, state_on(mesh_of(**EIGHT), step), {"kind": "pretrain"}, values)
    kept.close()


def flip(path: pathlib.Path, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


def largest(folder: pathlib.Path) -> pathlib.Path:
    return max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def flip_one(folder: pathlib.Path) -> str:
    path = largest(folder)
    flip(path, 1001)
    return f"{path} has changed"


def cut_off(folder: pathlib.Path) -> str:
    (folder / MANIFEST).unlink()
    return f"{folder} has no manifest.json"


def target_on(mesh: Mesh) -> dict[str, Any]:
    """A classifier's parameters: the same backbone, another head."""
    tree = {"backbone": params(seed=99)["backbone"], "head": HEAD}
    axes = {"backbone": AXES["backbone"], "head": (None,)}
    return jax.device_put(tree, tree_shardings(mesh, axes))


def unnoticed(folder: pathlib.Path, read: Reader, *, bits: int = 4) -> list[str]:
    """Files of a checkpoint in which a flipped bit is not found, or another file is named."""
    rng = np.random.default_rng(0)
    missed = []
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        whole = path.read_bytes()
        for bit in rng.integers(0, 8 * len(whole), 100 * bits if path.name == MANIFEST else bits):
            flip(path, int(bit))
            try:
                read(folder)
            except Damaged as error:
                if str(path) in str(error):
                    continue
            finally:
                path.write_bytes(whole)
            missed.append(f"{path.name}: bit {bit}")
    return missed
