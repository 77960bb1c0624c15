"""Who runs in this bucket? A bucket has no locks, so a run renews a lease, and another one waits.

The lease is an object that its owner writes anew every few seconds. One that has stood still for a
minute is nobody's: its process was killed. No clocks are compared: whoever wants it watches it.
"""

import contextlib
import json
import os
import pathlib
import secrets
import socket
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

from data_pipeline.errors import UserError

_NAME = ".lease"
RENEWED = 10.0  # seconds between two writes of the owner
FREE = 60.0  # seconds after which one that stands still is nobody's
_SETTLES = 1.0  # of two that take it at once, the later keeps it
_BOOT = pathlib.Path("/proc/sys/kernel/random/boot_id")


@contextlib.contextmanager
def leased(folder: pathlib.Path) -> Iterator[None]:
    """Holds a folder of a bucket for this process while the context lasts.

    A lease that a killed process left is taken at once on the same machine, and after a minute on
    another. A process whose lease was taken (it was suspended, or cut off from the bucket) ends.

    Raises:
      UserError: another process renews it, or the bucket cannot be written.
    """
    path, own = folder / _NAME, {**_process(), "token": secrets.token_hex(8)}
    try:
        _await_free(path)
        _write(path, own, 0)
        time.sleep(_SETTLES)
        holder = _read(path)
    except UserError:
        raise
    except Exception as problem:  # the plug-in raises types of its own that cannot be named here
        reason = " ".join(str(problem).split()) or type(problem).__name__
        raise UserError(
            f"{folder}: the bucket cannot be written ({reason}); check the address and your access"
        ) from problem
    if holder.get("token") != own["token"]:
        raise _taken(path, holder)
    over = threading.Event()
    thread = threading.Thread(target=_renew, args=(path, own, over), name="lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        if _read(path).get("token") == own["token"]:
            path.unlink()


def _await_free(path: pathlib.Path) -> None:
    first = _read(path)
    if not first or _was_here(first):
        return
    print(f"{path} is of {_words(first)}: waits {FREE:g} s for a sign of it", file=sys.stderr)
    deadline = time.monotonic() + FREE
    while time.monotonic() < deadline:
        time.sleep(min(1.0, FREE / 10))
        now = _read(path)
        if not now:
            return
        if now != first:
            raise _taken(path, now)


def _renew(path: pathlib.Path, own: dict[str, Any], over: threading.Event) -> None:
    number = 0
    while not over.wait(RENEWED):
        number += 1
        # A bucket that does not answer for a while is no reason to end.
        with contextlib.suppress(Exception):
            holder = _read(path)
            if holder and holder.get("token") != own["token"]:
                line = f"\ndnallm_jax on {own['host']}: {_taken(path, holder)}; this one ends\n"
                os.write(2, line.encode())
                os._exit(2)
            _write(path, own, number)


def _taken(path: pathlib.Path, holder: dict[str, Any]) -> UserError:
    return UserError(
        f"{path.parent}: another run is writing here ({_words(holder)}); wait until it is done, or "
        "choose another folder"
    )


def _words(holder: dict[str, Any]) -> str:
    return f"process {holder.get('process')} on {holder.get('host')}"


def _process() -> dict[str, Any]:
    boot = _BOOT.read_text().strip() if _BOOT.exists() else ""
    return {"host": socket.gethostname(), "boot": boot, "process": os.getpid()}


def _was_here(holder: dict[str, Any]) -> bool:
    """Whether it was a process of this machine, and is no more."""
    own = _process()
    if not own["boot"] or any(holder.get(key) != own[key] for key in ("host", "boot")):
        return False
    if holder["process"] == own["process"]:
        return True  # of the container that ran here before
    try:
        os.kill(holder["process"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return False


def _read(path: pathlib.Path) -> dict[str, Any]:
    """The lease; nothing where there is none, or none that can be read."""
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except ValueError:
        return {"unreadable": True}
    return found if isinstance(found, dict) else {"unreadable": True}


def _write(path: pathlib.Path, own: dict[str, Any], number: int) -> None:
    path.write_bytes(json.dumps({**own, "number": number}).encode())
