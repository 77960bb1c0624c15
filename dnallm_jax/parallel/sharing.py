"""How do the devices of a mesh share out attention, the one place where tokens meet?"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import Mesh

from dnallm_jax.parallel.mesh import sharding

Attend = Callable[[Array, Array, Array, Array], Array]


def share_out(attend: Attend, *, mesh: Mesh) -> Attend:
    """`attend` (queries, keys, values, segment ids), each device on whole rows and some heads.

    A kernel has to be told so, by shard_map; the compiler cannot split it. Where rows are split
    along `sequence`, the devices that hold one row swap (all-to-all): each gives its part of the
    row and takes some of the heads of all of it, and afterwards the other way round (Ulysses,
    Jacobs et al. 2023, arXiv:2309.14509). Every back end so runs as it is, segments and positions
    need no care at the borders, and each device has the same work, which is not so where each keeps
    its part of the queries under a causal mask. Key heads fewer than the devices are repeated.
    """
    parts = mesh.shape["sequence"]

    def to_heads(x_BLHh: Array) -> Array:
        return jax.lax.all_to_all(x_BLHh, "sequence", split_axis=2, concat_axis=1, tiled=True)

    def to_rows(x_BLHh: Array) -> Array:
        return jax.lax.all_to_all(x_BLHh, "sequence", split_axis=1, concat_axis=2, tiled=True)

    def swapping(q_BLHh: Array, k_BLKh: Array, v_BLKh: Array, segment_ids_BL: Array) -> Array:
        times = math.lcm(k_BLKh.shape[2], parts) // k_BLKh.shape[2]
        k, v = (to_heads(jnp.repeat(x_BLKh, times, axis=2)) for x_BLKh in (k_BLKh, v_BLKh))
        return to_rows(attend(to_heads(q_BLHh), k, v, segment_ids_BL))

    queries = sharding(mesh, "batch", "length", "heads", None).spec
    keys = sharding(mesh, "batch", "length", "kv_heads", None).spec
    return jax.shard_map(
        swapping if parts > 1 else attend,
        mesh=mesh,
        in_specs=(queries, keys, keys, sharding(mesh, "batch", None).spec),
        out_specs=queries,
        check_vma=False,  # a kernel does not say along which axes its results vary
    )
