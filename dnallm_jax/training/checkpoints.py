"""Where are the arrays kept, and are they whole? The only file that names Orbax.

A checkpoint is a folder `DIR/<step>/` of Orbax arrays with a manifest, which is verified before
anything is read. A bundle is the same thing without steps.
"""

import dataclasses
import json
import logging
import math
import pathlib
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from data_pipeline.errors import UserError
from dnallm_jax.config import differences
from dnallm_jax.parallel import hosts
from dnallm_jax.training import storage
from dnallm_jax.training.manifest import (
    MANIFEST,
    Damaged,
    parse_manifest,
    read_manifest,
    saved_steps,
    write_manifest,
)

_ARRAYS = "arrays"
_log = logging.getLogger("dnallm_jax")


def _flatten(tree: Any) -> dict[str, Any]:
    """Any pytree as one flat dict from key path to leaf: what is saved, free of Python classes."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
    }


def abstract(tree: Any) -> Any:
    """Shapes, dtypes and shardings of the arrays of a tree: all that `restore` needs of it."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree)


class Checkpoints:
    """Saves and restores the train state of one run; process 0 decides what is kept and taken.

    Args:
      directory: made when missing.
      keep: how many of the newest to keep; the best by `metric` is kept beside them.
      keep_every: checkpoints of steps that are multiples of it stay for ever; 0: none.
      metric: a key of the metrics given to `save`; what is saved without it is never the best.
      maximise: whether more of it is better.
      identity: JSON values that decide the run's result; the checkpoints of another are refused.
    """

    def __init__(
        self,
        directory: pathlib.Path,
        *,
        keep: int,
        keep_every: int = 0,
        metric: str,
        maximise: bool = False,
        identity: Mapping[str, Any],
    ) -> None:
        self._directory = storage.folder(str(directory))
        self._keep, self._keep_every = keep, keep_every
        self._metric, self._sign = metric, 1 if maximise else -1
        self._identity = json.loads(json.dumps(identity))
        self._scores: dict[int, float] = {}  # by step, of those with a metric; more is better
        self._passing: set[int] = set()
        if hosts.is_main():
            for step in saved_steps(self._directory):
                try:
                    self._note(step, parse_manifest(self._directory / str(step)))
                except Damaged:
                    continue  # reported when something is to be read from it
        self._writer = ocp.AsyncCheckpointer(ocp.StandardCheckpointHandler())
        self._completer = ThreadPoolExecutor(1, thread_name_prefix="manifest")
        self._pending: Future[None] | None = None

    def save(
        self,
        step: int,
        state: Any,
        manifest: Mapping[str, Any],
        metrics: Mapping[str, float],
        *,
        passing: bool = False,
    ) -> None:
        """Starts an asynchronous save; the step goes on while files are written.

        `metrics` are those of this very state, none if it was not evaluated. The manifest is given
        `step`, `metrics`, `passing` and `identity` beside what is in it. One that is `passing` goes
        as soon as a newer one is whole, or when its step is saved again.
        """
        self.finish()
        folder = self._directory / str(step)
        if hosts.is_main():
            if step in self._passing:
                self._delete(step)
            if folder.exists():
                raise RuntimeError(f"step {step} was saved before in {self._directory}")
            storage.begin(folder)
        arrays = storage.place(folder) / _ARRAYS
        self._writer.save(arrays, args=ocp.args.StandardSave(_flatten(state)))
        own = {"step": step, "metrics": dict(metrics), "passing": passing}
        whole = {**manifest, **own, "identity": self._identity}
        self._note(step, whole)
        self._pending = self._completer.submit(self._complete, folder, whole)

    def _complete(self, folder: pathlib.Path, manifest: Mapping[str, Any]) -> None:
        """Makes the checkpoint count as soon as its arrays are on disk; runs in a thread."""
        self._writer.wait_until_finished()
        if hosts.is_main():
            write_manifest(storage.place(folder), manifest)
            storage.complete(folder)

    def finish(self) -> None:
        """Waits until a running save is complete, then removes what it supersedes."""
        if self._pending is None:
            return
        pending, self._pending = self._pending, None
        pending.result()
        steps = saved_steps(self._directory) if hosts.is_main() else []
        lasting = [step for step in steps if step not in self._passing]
        kept = {*lasting[-self._keep :], *steps[-1:], *self._best_first()[:1]}
        if self._keep_every:
            kept |= {step for step in lasting if step % self._keep_every == 0}
        for step in set(steps) - kept:
            self._delete(step)

    def _note(self, step: int, manifest: Mapping[str, Any]) -> None:
        value = manifest["metrics"].get(self._metric, math.nan)
        if math.isfinite(value):
            self._scores[step] = self._sign * value
        if manifest.get("passing"):
            self._passing.add(step)

    def _best_first(self) -> list[int]:
        """The steps that have a metric, the best in front; of equals the latest."""
        return sorted(self._scores, key=lambda step: (-self._scores[step], -step))

    def _delete(self, step: int) -> None:
        self._scores.pop(step, None)
        self._passing.discard(step)
        storage.remove(self._directory / str(step), MANIFEST)

    def restore(self, state: Any) -> tuple[Any, dict[str, Any]] | None:
        """The newest whole checkpoint as (state, manifest), laid out like `state`; or None.

        A damaged one is reported by name, the next older one is taken, and the damaged one removed,
        so that its step can be saved again.

        Args:
          state: arrays, or ShapeDtypeStructs with shardings.

        Raises:
          UserError: none is whole (never silently a fresh start), or it is one of another run.
        """
        self.finish()  # what is being saved is not damaged
        manifest = hosts.from_main(self._newest)
        return None if manifest is None else (self._read(manifest["step"], state), manifest)

    def _newest(self) -> dict[str, Any] | None:
        for left in storage.sweep(self._directory, MANIFEST):
            _log.warning("removed what a save (or a removal) that was cut off left: %s", left)
        steps = sorted(saved_steps(self._directory), reverse=True)
        for number, step in enumerate(steps):
            try:
                manifest = self._verified(step)
            except Damaged as error:
                _log.warning("skipped a damaged checkpoint: %s", error)
                continue
            for later in steps[:number]:
                self._delete(later)
            return manifest
        if steps:
            raise UserError(
                f"{self._directory}: none of the checkpoints {steps} is whole; "
                "move the folder away to start again, or restore it from a copy"
            )
        return None

    def restore_best(self, state: Any) -> tuple[Any, dict[str, Any]]:
        """The whole checkpoint with the best metric as (state, manifest), laid out like `state`.

        A damaged one is reported by name and the next best is taken; UserError when there is none.
        """
        self.finish()
        manifest = hosts.from_main(self._best)
        return self._read(manifest["step"], state), manifest

    def _best(self) -> dict[str, Any]:
        for step in self._best_first():
            try:
                return self._verified(step)
            except Damaged as error:
                _log.warning("skipped the best checkpoint, which is damaged: %s", error)
        raise UserError(f"{self._directory} holds no whole checkpoint with {self._metric}")

    def _verified(self, step: int) -> dict[str, Any]:
        folder = self._directory / str(step)
        manifest = read_manifest(folder)
        if manifest["step"] != step:
            raise Damaged(f"{folder} holds step {manifest['step']}; its folder was renamed")
        changed = differences(manifest["identity"], self._identity)
        if changed:
            raise UserError(
                f"{folder} is a checkpoint of another run ({in_short(changed)}); move it out of "
                "this folder"
            )
        return manifest

    def _read(self, step: int, state: Any) -> Any:
        flat = self._writer.restore(
            self._directory / str(step) / _ARRAYS,
            args=ocp.args.StandardRestore(_flatten(abstract(state))),
        )
        leaves = [flat[key] for key in _flatten(state)]
        return jax.tree.unflatten(jax.tree.structure(state), leaves)

    def verify(self, step: int, state: Any) -> None:
        """Reads a step back and compares every bit with `state`; UserError when one differs."""
        self.finish()
        hosts.from_main(lambda: self._verify_files(step))
        pairs = zip(_flatten(state).items(), jax.tree.leaves(self._read(step, state)), strict=True)
        for (name, ours), theirs in pairs:
            for mine, read in zip(ours.addressable_shards, theirs.addressable_shards, strict=True):
                if np.asarray(mine.data).tobytes() != np.asarray(read.data).tobytes():
                    raise UserError(
                        f"{self._directory / str(step)}: {name} was read back with other bits than "
                        "were saved; do not trust this disk"
                    )

    def _verify_files(self, step: int) -> None:
        try:
            self._verified(step)
        except Damaged as error:
            raise UserError(f"saved, but not whole when read back: {error}") from None

    def close(self) -> None:
        """Completes what is being saved and stops the writers."""
        try:
            self.finish()
        finally:
            self._completer.shutdown()
            self._writer.close()


def in_short(changed: list[str], most: int = 5) -> str:
    """The first few lines of `config.differences` as one."""
    return "; ".join(changed[:most]) + ("; ..." if len(changed) > most else "")


def newest_whole(directory: pathlib.Path) -> pathlib.Path:
    """The folder of the newest whole checkpoint; UserError when there is none."""
    reasons = []
    for step in reversed(saved_steps(directory)):
        try:
            read_manifest(directory / str(step))
        except Damaged as error:
            reasons.append(str(error))
            _log.warning("skipped a damaged checkpoint: %s", error)
            continue
        return directory / str(step)
    found = "; ".join(reasons) or "there is none"
    raise UserError(
        f"{directory}: no whole checkpoint ({found}); run pretrain first, or name another"
    )


@dataclasses.dataclass(frozen=True)
class Account:
    """What a partial restore did with every leaf, by name."""

    loaded: tuple[str, ...]
    initialised: tuple[str, ...]
    dropped: tuple[str, ...]

    def lines(self) -> list[str]:
        return [
            f"{what:<12}{len(names):>3}  {', '.join(names) or '-'}"
            for what, names in vars(self).items()
        ]


def restore_part(
    folder: pathlib.Path, target: Any, *, take: str, drop: Iterable[str]
) -> tuple[Any, Account]:
    """Takes the parameters under the key `take` of a checkpoint into `target`, by name and shape.

    Args:
      folder: one checkpoint (`.../<step>`), verified before it is read.
      target: a dict of parameters with shardings; leaves outside `take` are left as they are.
      drop: top-level parameters of the checkpoint that are expected and left behind.

    Raises:
      UserError: a leaf of `take` is missing, has another shape, or the checkpoint holds one that is
        neither taken nor in `drop`.
    """
    read_manifest(folder)
    with ocp.StandardCheckpointer() as checkpointer:
        stored = checkpointer.metadata(folder / _ARRAYS).item_metadata.tree
    params = {
        k.removeprefix("params/"): v for k, v in _flatten(stored).items() if k.startswith("params/")
    }
    wanted = {k: v for k, v in _flatten(target).items() if k.split("/")[0] == take}
    dropped = {k for k in params if k.split("/")[0] in set(drop)}
    unexpected = set(params) - set(wanted) - dropped
    missing = set(wanted) - set(params)
    if unexpected or missing:
        raise UserError(
            f"{folder} does not fit this model: missing {sorted(missing) or '-'}, "
            f"unexpected {sorted(unexpected) or '-'}"
        )
    for name, leaf in wanted.items():
        if tuple(params[name].shape) != leaf.shape:
            raise UserError(
                f"{folder}: {name} has shape {tuple(params[name].shape)}, "
                f"this model needs {leaf.shape}"
            )
    layout = {f"params/{k}": v for k, v in _flatten(abstract(target)).items() if k in wanted}
    with ocp.PyTreeCheckpointer() as checkpointer:
        read = checkpointer.restore(
            folder / _ARRAYS,
            args=ocp.args.PyTreeRestore(
                item=layout,
                restore_args=ocp.checkpoint_utils.construct_restore_args(layout),
                partial_restore=True,
            ),
        )
    flat = {k: read[f"params/{k}"] if k in wanted else v for k, v in _flatten(target).items()}
    if any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in flat.values()):
        raise RuntimeError("Orbax returned an empty place for a leaf that it listed")
    account = Account(
        tuple(sorted(wanted)), tuple(sorted(set(flat) - set(wanted))), tuple(sorted(dropped))
    )
    return jax.tree.unflatten(jax.tree.structure(target), list(flat.values())), account


def save_bundle(folder: pathlib.Path, params: Any, manifest: Mapping[str, Any]) -> None:
    """Writes parameters and manifest as a bundle; it appears under its name only when whole."""
    if hosts.is_main():
        storage.begin_again(folder, MANIFEST)
    hosts.barrier("bundle")
    place = storage.folder(str(storage.place(folder)))
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(place / _ARRAYS, _flatten(params))
    if hosts.is_main():
        if not storage.in_bucket(folder):
            # It names the folders of this machine, and says what the manifest says.
            (place / _ARRAYS / "commit_success.txt").unlink(missing_ok=True)
        write_manifest(place, manifest)
        storage.complete(folder)
    hosts.barrier("bundle")


def load_bundle(folder: pathlib.Path, target: Any) -> Any:
    """The parameters of a bundle, whose files `read_manifest` has verified, laid out like `target`.

    The leaves of `target` are arrays, or ShapeDtypeStructs with shardings.
    """
    with ocp.StandardCheckpointer() as checkpointer:
        flat = checkpointer.restore(storage.folder(str(folder)) / _ARRAYS, _flatten(target))
    return jax.tree.unflatten(jax.tree.structure(target), [flat[k] for k in _flatten(target)])
