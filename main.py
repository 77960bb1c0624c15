"""`python main.py COMMAND ...`: parses, dispatches; nothing else."""

import errno
import importlib
import logging as python_logging
import os
import pathlib
import re
import sys
import traceback
from typing import NoReturn

from absl import app, flags, logging

from data_pipeline.errors import LostError, UserError
from dnallm_jax.commands import COMMANDS, usage

NO_ROOM = tuple(os.strerror(code) for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG))


def run(argv: list[str] | None = None) -> None:
    """Runs one command; a user's mistake ends with one line on standard error and exit code 2."""
    try:
        try:
            _run(argv)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read the output has seen enough; Python's own end must not write to it either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def _run(argv: list[str] | None) -> None:
    argv = [_beside_main(word) for word in (sys.argv if argv is None else argv)]
    if len(argv) < 2 or argv[1] in ("--help", "-h", "help"):
        print(usage())
        sys.exit(0 if len(argv) > 1 else 2)
    name = argv.pop(1)
    if name not in COMMANDS:
        _fail(f"unknown command {name!r}; the commands are: {', '.join(COMMANDS)}")
    command = importlib.import_module(f"dnallm_jax.commands.{name}")
    if {"--help", "-h"} & set(argv[1:]):
        print((command.__doc__ or "").strip())
        sys.exit(0)
    try:
        command.define_flags()
        rest = flags.FLAGS(argv)[1:]
    except flags.Error as error:
        first, *more = str(error).strip().splitlines()
        _fail(f"{name}: {' '.join([first, *more[-1:]])}")  # between them lie stack frames
    except OSError as error:
        _fail(f"{name}: --config: {str(error).splitlines()[-1].strip()}")
    except (AttributeError, KeyError) as error:
        if not _raised_by("ml_collections", error):
            raise
        _fail(f"{name}: --config: {_unknown_key(error)}")
    # The libraries say much; what a user must know reaches them through this project's own logger.
    logging.set_verbosity(logging.ERROR)
    python_logging.getLogger("dnallm_jax").setLevel("INFO")
    try:
        app.run(lambda _: command.run(rest), argv[:1])
    except UserError as error:
        _fail(f"{name}: {error}")
    except LostError as error:
        _fail(f"{name}: {error}", code=75)
    except Exception as error:  # libraries tell of a full disk in errors of many kinds
        if not any(words in str(error) for words in NO_ROOM):
            raise
        told, *_ = str(error).splitlines()
        _fail(f"{name}: no room to write ({told}); make some and run the same command again")


def _beside_main(word: str) -> str:
    """--config=PATH; where there is no such file, the recipe of that path installed here."""
    flag, equals, path = word.partition("=")
    shipped = pathlib.Path(__file__).parent / path
    if flag == "--config" and not pathlib.Path(path).exists() and shipped.is_file():
        return f"{flag}{equals}{shipped}"
    return word


def _raised_by(package: str, error: BaseException) -> bool:
    """Whether the code that raised belongs to a package, and not to the config file itself."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return frame.f_globals["__name__"].split(".")[0] == package


def _unknown_key(error: BaseException) -> str:
    """What ml_collections says of a key that is not in the config, in one line."""
    while isinstance(error.args[0], KeyError):
        error = error.args[0]
    text = str(error.args[0])
    key = re.match("""(?:Key )?["']([^"']+)""", text)
    hint = re.search("Did you mean .*", text)
    told = f"there is no key {key[1]!r}" if key else text
    return f"{told}. {hint[0]}" if hint else told


def _fail(sentence: str, *, code: int = 2) -> NoReturn:
    print("dnallm_jax", " ".join(sentence.split()), file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    run()
