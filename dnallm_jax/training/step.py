"""What happens in one step? A pure, jitted function (state, batch) -> (state, metrics)."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dnallm_jax.model.gpt import Params
from dnallm_jax.parallel import mesh as meshes
from dnallm_jax.training.objectives import Batch, Sums

# {"params": Params, "optimizer": optax state, "step": int32 []}, and where it is asked for "ema":
# Params, their running mean.
TrainState = dict[str, Any]
Objective = Callable[[Params, Batch], Sums]


def state_shardings(
    mesh: Mesh, axes: Any, tx: optax.GradientTransformation, params: Any, *, ema: bool = False
) -> Any:
    """Shardings of the whole train state: moments lie with their parameters, scalars everywhere."""
    param_shardings = meshes.tree_shardings(mesh, axes)
    everywhere = NamedSharding(mesh, PartitionSpec())
    by_path = dict(jax.tree_util.tree_leaves_with_path(param_shardings))

    def lies(path: tuple, _: Any) -> NamedSharding:
        """A moment is named as its parameter is, wherever in the optimizer's state it is."""
        ends = (path[start:] for start in range(len(path)))
        return next((by_path[end] for end in ends if end in by_path), everywhere)

    moments = jax.tree_util.tree_map_with_path(lies, jax.eval_shape(tx.init, params))
    shardings = {"params": param_shardings, "optimizer": moments, "step": everywhere}
    return shardings | ({"ema": param_shardings} if ema else {})


def make_state(
    init: Callable[[], Params],
    tx: optax.GradientTransformation,
    mesh: Mesh,
    axes: Any,
    *,
    ema: bool = False,
) -> tuple[TrainState, Any]:
    """A fresh train state whose every array is created already sharded, and its shardings."""
    shardings = state_shardings(mesh, axes, tx, jax.eval_shape(init), ema=ema)
    create = functools.partial(_create, init, tx, ema)
    return jax.jit(create, out_shardings=shardings)(), shardings


def abstract_state(
    init: Callable[[], Params],
    tx: optax.GradientTransformation,
    mesh: Mesh,
    axes: Any,
    *,
    ema: bool = False,
) -> tuple[Any, Any]:
    """As `make_state`, with shapes for arrays: for a mesh of devices that are not at hand."""
    shardings = state_shardings(mesh, axes, tx, jax.eval_shape(init), ema=ema)
    shapes = jax.eval_shape(functools.partial(_create, init, tx, ema))
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings
    ), shardings


def _create(init: Callable[[], Params], tx: optax.GradientTransformation, ema: bool) -> TrainState:
    params = init()
    state = {"params": params, "optimizer": tx.init(params), "step": jnp.zeros([], jnp.int32)}
    return state | ({"ema": params} if ema else {})


@dataclasses.dataclass(frozen=True)
class Program:
    """All that a run's arrays and functions follow from, on a mesh of any devices.

    Attributes:
      axes: the logical axis names of every parameter, in their structure.
      accumulate, ema, skip: as of `make_train_step`.
    """

    mesh: Mesh
    initialise: Callable[[], Params]
    axes: Any
    tx: optax.GradientTransformation
    objective: Objective
    accumulate: int = 1
    ema: float = 0.0
    skip: bool = False

    def state(self) -> tuple[TrainState, Any]:
        """A fresh train state and its shardings."""
        return make_state(self.initialise, self.tx, self.mesh, self.axes, ema=self.ema > 0)

    def abstract_state(self) -> tuple[Any, Any]:
        """The same, with shapes for arrays."""
        return abstract_state(self.initialise, self.tx, self.mesh, self.axes, ema=self.ema > 0)

    def train_step(self, shardings: Any) -> Callable[[TrainState, Batch], tuple[TrainState, Sums]]:
        """The jitted update of a state of these shardings."""
        return make_train_step(
            self.objective,
            self.tx,
            shardings,
            accumulate=self.accumulate,
            ema=self.ema,
            skip=self.skip,
        )


def make_train_step(
    objective: Objective,
    tx: optax.GradientTransformation,
    shardings: Any,
    *,
    accumulate: int = 1,
    ema: float = 0.0,
    skip: bool = False,
) -> Callable[[TrainState, Batch], tuple[TrainState, Sums]]:
    """The jitted update; the old state's memory is donated. Metrics are the objective's sums.

    What is minimised is the loss (and penalty, if any) summed over the whole batch, divided once by
    its summed weight: `accumulate` parts of it, one after the other, give the same update in a part
    of the memory. `ema` is the weight of the old mean in a state's "ema"; it is less in the first
    steps, so that the start is soon forgotten. With `skip` a step whose loss or gradient is not
    finite moves nothing but the step's number; its sums are 0, but for `skipped`.
    """

    def summed(params: Params, batch: Batch) -> tuple[jax.Array, Sums]:
        sums = objective(params, batch)
        return sums["loss"] + sums.get("penalty", 0.0), sums

    gradient_of_sum = jax.grad(summed, has_aux=True)

    def of_batch(params: Params, batch: Batch, step: jax.Array) -> tuple[Params, Sums]:
        def of_rows(rows: Batch) -> tuple[Params, Sums]:
            # The step tells an objective that this is training.
            return gradient_of_sum(params, {**rows, "step": step})

        if accumulate == 1:
            return of_rows(batch)
        parts = _parts(batch, accumulate)
        shapes = jax.eval_shape(of_rows, jax.tree.map(lambda part: part[0], parts))
        gradient, sums = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        gradient = jax.lax.with_sharding_constraint(gradient, shardings["params"])
        total, _ = jax.lax.scan(
            lambda total, rows: (jax.tree.map(jnp.add, total, of_rows(rows)), None),
            (gradient, sums),
            parts,
        )
        return total

    @functools.partial(jax.jit, donate_argnums=0, out_shardings=(shardings, None))
    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Sums]:
        gradient, sums = of_batch(state["params"], batch, state["step"])
        weight = jnp.maximum(sums["weight"], 1.0)
        gradient = jax.tree.map(lambda leaf: leaf / weight, gradient)
        updates, optimizer = tx.update(gradient, state["optimizer"], state["params"])
        params = optax.apply_updates(state["params"], updates)
        new = {"params": params, "optimizer": optimizer, "step": state["step"] + 1}
        if ema:
            weight = jnp.minimum(ema, (1 + state["step"]) / (10 + state["step"]))
            new["ema"] = optax.incremental_update(params, state["ema"], 1 - weight)
        sums = {**sums, "gradient_norm": optax.tree.norm(gradient)}
        if not skip:
            return new, sums
        good = jnp.isfinite(sums["loss"]) & jnp.isfinite(sums["gradient_norm"])
        old = {**state, "step": new["step"]}
        new, sums = jax.tree.map(
            lambda made, instead: jnp.where(good, made, instead),
            (new, sums),
            (old, jax.tree.map(jnp.zeros_like, sums)),
        )
        return new, {**sums, "skipped": 1.0 - good}

    return train_step


def _parts(batch: Batch, count: int) -> Batch:
    """[B, ...] -> [count, B / count, ...]: part i has the rows i, i + count, ...

    Of rows that lie together on a device each part so takes its share: none travels.
    """
    return jax.tree.map(lambda rows: rows.reshape(-1, count, *rows.shape[1:]).swapaxes(0, 1), batch)


def make_eval_step(objective: Objective) -> Callable[[Params, Batch], Sums]:
    """The jitted sums of an objective, without a gradient."""
    return jax.jit(objective)
