"""Where are the arrays kept, and are they whole? The only file that names Orbax.

A checkpoint is a folder `DIR/<step>/` of Orbax arrays with a `manifest.json` that explains them and
holds the sha256 of every file and of itself. The manifest is written last, by rename: without it a
checkpoint does not count, and with it every flipped bit is found when it is read. A bundle is the
same thing without steps.
"""

import dataclasses
import hashlib
import json
import logging
import math
import os
import pathlib
import re
import shutil
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import orbax.checkpoint as ocp

from data_pipeline.errors import UserError
from dnallm_jax.config import differences

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
    """Writes JSON under a temporary name and renames it, so it is there whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        file.write(_as_json(value))
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)


def _as_json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, indent=1, sort_keys=True).encode()


def _signed(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest with a checksum of all the rest of it."""
    rest = {key: value for key, value in manifest.items() if key != "sha256"}
    return {**rest, "sha256": hashlib.sha256(_as_json(rest)).hexdigest()}


def _write_manifest(folder: pathlib.Path, manifest: Mapping[str, Any]) -> None:
    """Writes the manifest of a folder whose other files are all there; makes the folder whole."""
    write_json(folder / MANIFEST, _signed({**manifest, "files": _checksums(folder)}))


def _parse_manifest(folder: pathlib.Path) -> dict[str, Any]:
    """The manifest itself, verified; the files that it lists are not looked at."""
    path = folder / MANIFEST
    try:
        written = path.read_bytes()
        manifest = json.loads(written)
    except FileNotFoundError:
        raise Damaged(f"{folder} has no {MANIFEST} (its saving was cut off)") from None
    except ValueError as error:
        raise Damaged(f"{path} is not readable JSON ({error})") from None
    if not isinstance(manifest, dict) or written != _as_json(_signed(manifest)):
        raise Damaged(f"{path} has changed since it was written (sha256 differs)")
    return manifest


def read_manifest(folder: pathlib.Path) -> dict[str, Any]:
    """The manifest of one checkpoint or bundle, all files verified; Damaged names what is wrong."""
    manifest = _parse_manifest(folder)
    found = _checksums(folder)
    for name, checksum in manifest["files"].items():
        if name not in found:
            raise Damaged(f"{folder / name} is missing")
        if found[name] != checksum:
            raise Damaged(f"{folder / name} has changed since it was written (sha256 differs)")
    return manifest


class Checkpoints:
    """Saves and restores the train state of one run; the newest and the best are kept.

    Args:
      directory: made when missing.
      keep: how many of the newest to keep; the best by `metric` is kept beside them.
      metric: a key of the metrics given to `save`; what is saved without it is never the best.
      maximise: whether more of it is better.
      identity: JSON values that decide the run's result; the checkpoints of another are refused.
    """

    def __init__(
        self,
        directory: pathlib.Path,
        *,
        keep: int,
        metric: str,
        maximise: bool = False,
        identity: Mapping[str, Any],
    ) -> None:
        self._directory = directory.absolute()
        self._keep, self._metric, self._sign = keep, metric, 1 if maximise else -1
        self._identity = json.loads(json.dumps(identity))
        self._scores: dict[int, float] = {}  # by step, of those with a metric; more is better
        for step in saved_steps(self._directory):
            try:
                self._rate(step, _parse_manifest(self._directory / str(step))["metrics"])
            except Damaged:
                continue  # reported when something is to be read from it
        # What goes is decided here, not by Orbax: its manager would delete older checkpoints before
        # the manifest makes the newest one count.
        self._manager = ocp.CheckpointManager(
            self._directory,
            item_names=(_ARRAYS,),
            options=ocp.CheckpointManagerOptions(
                cleanup_tmp_directories=True,
                create=True,
                lightweight_initialize=True,  # a damaged step must not stop the start
            ),
        )
        self._completer = ThreadPoolExecutor(1, thread_name_prefix="manifest")
        self._pending: Future[None] | None = None

    def save(
        self, step: int, state: Any, manifest: Mapping[str, Any], metrics: Mapping[str, float]
    ) -> None:
        """Starts an asynchronous save; the step goes on while files are written.

        `metrics` are those of this very state, none if it was not evaluated. The manifest is given
        `step`, `metrics` and `identity` beside what is in it.
        """
        self.finish()
        saved = self._manager.save(
            step, args=ocp.args.Composite(**{_ARRAYS: ocp.args.StandardSave(_flatten(state))})
        )
        if not saved:
            raise RuntimeError(f"Orbax refused to save step {step} in {self._directory}")
        self._rate(step, metrics)
        whole = {**manifest, "step": step, "metrics": dict(metrics), "identity": self._identity}
        self._pending = self._completer.submit(self._complete, step, whole)

    def _complete(self, step: int, manifest: Mapping[str, Any]) -> None:
        """Makes the checkpoint count as soon as its arrays are on disk; runs in a thread."""
        self._manager.wait_until_finished()
        if jax.process_index() == 0:
            _write_manifest(self._directory / str(step), manifest)

    def finish(self) -> None:
        """Waits until a running save is complete, then removes what it supersedes."""
        if self._pending is None:
            return
        pending, self._pending = self._pending, None
        pending.result()
        steps = self._manager.all_steps()
        kept = {*sorted(steps)[-self._keep :], *self._best_first()[:1]}
        for step in set(steps) - kept:
            self._delete(step)

    def _rate(self, step: int, metrics: Mapping[str, float]) -> None:
        value = metrics.get(self._metric, math.nan)
        if math.isfinite(value):
            self._scores[step] = self._sign * value

    def _best_first(self) -> list[int]:
        """The steps that have a metric, the best in front; of equals the latest."""
        return sorted(self._scores, key=lambda step: (-self._scores[step], -step))

    def _delete(self, step: int) -> None:
        self._scores.pop(step, None)
        self._manager.delete(step)

    def restore(self, state: Any) -> tuple[Any, dict[str, Any]] | None:
        """The newest whole checkpoint as (state, manifest), laid out like `state`; or None.

        A damaged one is reported by name, the next older one is taken, and the damaged one removed,
        so that its step can be saved again.

        Raises:
          UserError: none is whole (never silently a fresh start), or it is one of another run.
        """
        steps = sorted(saved_steps(self._directory), reverse=True)
        damaged = []
        for step in steps:
            try:
                restored = self._restore(step, state)
            except Damaged as error:
                _log.warning("skipped a damaged checkpoint: %s", error)
                damaged.append(step)
                continue
            for later in damaged:
                self._delete(later)
            return restored
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
        for step in self._best_first():
            try:
                return self._restore(step, state)
            except Damaged as error:
                _log.warning("skipped the best checkpoint, which is damaged: %s", error)
        raise UserError(f"{self._directory} holds no whole checkpoint with {self._metric}")

    def _restore(self, step: int, state: Any) -> tuple[Any, dict[str, Any]]:
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
        flat = self._manager.restore(
            step,
            args=ocp.args.Composite(
                **{_ARRAYS: ocp.args.StandardRestore(_flatten(_abstract(state)))}
            ),
        )[_ARRAYS]
        leaves = [flat[key] for key in _flatten(state)]
        return jax.tree.unflatten(jax.tree.structure(state), leaves), manifest

    def close(self) -> None:
        """Completes what is being saved and stops the writers."""
        try:
            self.finish()
        finally:
            self._completer.shutdown()
            self._manager.close()


def in_short(changed: list[str], most: int = 5) -> str:
    """The first few lines of `config.differences` as one."""
    return "; ".join(changed[:most]) + ("; ..." if len(changed) > most else "")


def saved_steps(directory: pathlib.Path) -> list[int]:
    """The steps that have a folder in `directory`, whole or not, ascending."""
    if not directory.is_dir():
        return []
    numbers = (p for p in directory.iterdir() if re.fullmatch("0|[1-9][0-9]*", p.name))
    return sorted(int(p.name) for p in numbers if p.is_dir())


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
    old = folder.with_name(folder.name + ".old")
    for left in (temporary, old):  # by a run that was killed here
        shutil.rmtree(left, ignore_errors=True)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(temporary / _ARRAYS, _flatten(params))
    _write_manifest(temporary, manifest)
    if folder.exists():
        folder.rename(old)
    temporary.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def load_bundle(folder: pathlib.Path, target: Any) -> Any:
    """The parameters of a bundle, whose files `read_manifest` has verified, laid out like `target`.

    The leaves of `target` are arrays, or ShapeDtypeStructs with shardings.
    """
    with ocp.StandardCheckpointer() as checkpointer:
        flat = checkpointer.restore(folder.absolute() / _ARRAYS, _flatten(target))
    return jax.tree.unflatten(jax.tree.structure(target), [flat[k] for k in _flatten(target)])
