"""Where are the arrays kept, and are they whole? The only file that names Orbax.

A checkpoint is a folder `DIR/<step>/` of Orbax arrays with a `manifest.json` that explains them and holds
the sha256 of every file. The manifest is written last, by rename: without it a checkpoint does not count,
and with it every flipped bit is found when it is read. A bundle is the same thing without steps.
"""

import dataclasses
import hashlib
import json
import logging
import os
import pathlib
import shutil
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import orbax.checkpoint as ocp

from data_pipeline.errors import UserError

MANIFEST = "manifest.json"
_ARRAYS = "arrays"
_log = logging.getLogger("dnallm_jax")


class Damaged(Exception):
    """A checkpoint that is not whole; the message says which file and what is wrong with it."""


def _flatten(tree: Any) -> dict[str, Any]:
    """Any pytree as one flat dict from key path to leaf: what is saved, free of Python classes."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
    }


def _abstract(tree: Any) -> Any:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree)


def _checksums(folder: pathlib.Path) -> dict[str, str]:
    sums = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != MANIFEST:
            with path.open("rb") as file:
                sums[str(path.relative_to(folder))] = hashlib.file_digest(
                    file, "sha256"
                ).hexdigest()
    return sums


def write_json(path: pathlib.Path, value: Mapping[str, Any]) -> None:
    """Writes JSON under a temporary name and renames it, so that it is there whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w") as file:
        json.dump(value, file, indent=1, sort_keys=True)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)


def read_manifest(folder: pathlib.Path) -> dict[str, Any]:
    """The manifest of one checkpoint or bundle, its files verified; Damaged names what is not whole."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
    except FileNotFoundError:
        raise Damaged(f"{folder} has no {MANIFEST} (its saving was cut off)") from None
    except ValueError as error:
        raise Damaged(f"{folder / MANIFEST} is not readable JSON ({error})") from None
    found = _checksums(folder)
    for name, checksum in manifest["files"].items():
        if name not in found:
            raise Damaged(f"{folder / name} is missing")
        if found[name] != checksum:
            raise Damaged(f"{folder / name} has changed since it was written (sha256 differs)")
    return manifest


def _write_manifest(folder: pathlib.Path, manifest: Mapping[str, Any]) -> None:
    write_json(folder / MANIFEST, {**manifest, "files": _checksums(folder)})


class Checkpoints:
    """Saves and restores the train state of one run, newest and best kept.

    Args:
      directory: made when missing.
      keep: how many of the newest to keep; the best by `metric` is kept beside them.
      metric: a key of the metrics given to `save`; `maximise` says which way is better.
    """

    def __init__(
        self, directory: pathlib.Path, *, keep: int, metric: str, maximise: bool = False
    ) -> None:
        self._directory = directory.absolute()
        self._pending: tuple[int, dict[str, Any]] | None = None
        policies = ocp.checkpoint_managers.preservation_policy
        best = policies.BestN(
            get_metric_fn=lambda metrics: metrics[metric],
            reverse=maximise,
            n=1,
            keep_checkpoints_without_metrics=False,
        )
        self._manager = ocp.CheckpointManager(
            self._directory,
            item_names=(_ARRAYS,),
            options=ocp.CheckpointManagerOptions(
                preservation_policy=policies.AnyPreservationPolicy([policies.LatestN(keep), best]),
                cleanup_tmp_directories=True,
                create=True,
            ),
        )

    def save(
        self, step: int, state: Any, manifest: Mapping[str, Any], metrics: Mapping[str, float]
    ) -> None:
        """Starts an asynchronous save; the step goes on while files are written."""
        self.finish()
        saved = self._manager.save(
            step,
            args=ocp.args.Composite(**{_ARRAYS: ocp.args.StandardSave(_flatten(state))}),
            metrics=dict(metrics),
        )
        if not saved:
            raise RuntimeError(f"Orbax refused to save step {step} in {self._directory}")
        self._pending = (step, dict(manifest))

    def finish(self) -> None:
        """Waits for a running save and completes it with its manifest."""
        if self._pending is None:
            return
        self._manager.wait_until_finished()
        step, manifest = self._pending
        if jax.process_index() == 0:
            _write_manifest(self._directory / str(step), manifest)
        self._pending = None

    def restore(self, state: Any) -> tuple[Any, dict[str, Any]] | None:
        """The newest whole checkpoint as (state, manifest) laid out like `state`, or None if there is none.

        A damaged one is reported by name and the next older one is taken; when none is whole, UserError:
        never silently a fresh start.
        """
        steps = sorted(saved_steps(self._directory), reverse=True)
        for step in steps:
            try:
                return self._restore(step, state)
            except Damaged as error:
                _log.warning("skipped a damaged checkpoint: %s", error)
        if steps:
            raise UserError(
                f"{self._directory}: none of the checkpoints {steps} is whole; "
                "move the folder away to start again, or restore it from a copy"
            )
        return None

    def restore_best(self, state: Any) -> tuple[Any, dict[str, Any]]:
        """The checkpoint with the best metric, laid out like `state`, and its manifest."""
        step = self._manager.best_step()
        if step is None:
            raise RuntimeError(f"{self._directory} holds no checkpoint with a metric")
        return self._restore(step, state)

    def _restore(self, step: int, state: Any) -> tuple[Any, dict[str, Any]]:
        manifest = read_manifest(self._directory / str(step))
        flat = self._manager.restore(
            step,
            args=ocp.args.Composite(
                **{_ARRAYS: ocp.args.StandardRestore(_flatten(_abstract(state)))}
            ),
        )[_ARRAYS]
        leaves = [flat[key] for key in _flatten(state)]
        return jax.tree.unflatten(jax.tree.structure(state), leaves), manifest

    def discard_damaged(self) -> None:
        """Removes checkpoints without a whole manifest, so that their steps can be saved again."""
        for step in saved_steps(self._directory):
            try:
                read_manifest(self._directory / str(step))
            except Damaged:
                self._manager.delete(step)

    def close(self) -> None:
        """Completes what is being saved and stops the writer."""
        self.finish()
        self._manager.close()


def saved_steps(directory: pathlib.Path) -> list[int]:
    """The steps that have a folder in `directory`, whole or not, ascending."""
    if not directory.is_dir():
        return []
    return sorted(int(p.name) for p in directory.iterdir() if p.name.isdigit() and p.is_dir())


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
                f"{folder}: {name} has shape {tuple(params[name].shape)}, this model needs {leaf.shape}"
            )
    abstract = {f"params/{k}": v for k, v in _flatten(_abstract(target)).items() if k in wanted}
    with ocp.PyTreeCheckpointer() as checkpointer:
        read = checkpointer.restore(
            folder / _ARRAYS,
            args=ocp.args.PyTreeRestore(
                item=abstract,
                restore_args=ocp.checkpoint_utils.construct_restore_args(abstract),
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
    temporary = folder.with_name(folder.name + ".tmp").absolute()
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(temporary / _ARRAYS, _flatten(params), force=True)
    _write_manifest(temporary, manifest)
    if folder.exists():
        old = folder.with_name(folder.name + ".old")
        folder.rename(old)
        temporary.rename(folder)
        shutil.rmtree(old)
    else:
        temporary.rename(folder)


def load_bundle(folder: pathlib.Path, target: Any) -> Any:
    """The parameters of a bundle, laid out like `target` (arrays or ShapeDtypeStructs with shardings)."""
    with ocp.StandardCheckpointer() as checkpointer:
        flat = checkpointer.restore(folder.absolute() / _ARRAYS, _flatten(target))
    return jax.tree.unflatten(jax.tree.structure(target), [flat[k] for k in _flatten(target)])
