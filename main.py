"""`python main.py COMMAND ...`: parses, dispatches; nothing else."""

import importlib
import logging as python_logging
import sys

from absl import app, flags, logging

from data_pipeline.errors import UserError
from dnallm_jax.commands import COMMANDS, usage


def run(argv: list[str] | None = None) -> None:
    """Runs one command; a user's mistake ends with one sentence on standard error and exit code 2."""
    argv = list(sys.argv if argv is None else argv)
    if len(argv) < 2 or argv[1] in ("--help", "-h", "help"):
        print(usage())
        sys.exit(0 if len(argv) > 1 else 2)
    name = argv.pop(1)
    if name not in COMMANDS:
        _fail(f"unknown command {name!r}; the commands are: {', '.join(COMMANDS)}")
    command = importlib.import_module(f"dnallm_jax.commands.{name}")
    if {"--help", "-h"} & set(argv[1:]):
        print(command.__doc__.strip())
        sys.exit(0)
    try:
        command.define_flags()
        rest = flags.FLAGS(argv)[1:]
    except (flags.Error, UserError) as error:
        _fail(f"{name}: {error}")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        # ml_collections reports a misspelt or mistyped config key by these.
        _fail(f"{name}: --config: {' '.join(str(error).split())}")
    # The libraries say much; what a user must know reaches them through this project's own logger.
    logging.set_verbosity(logging.ERROR)
    python_logging.getLogger("dnallm_jax").setLevel("INFO")
    try:
        app.run(lambda _: command.run(rest), argv[:1])
    except UserError as error:
        _fail(f"{name}: {error}")


def _fail(sentence: str) -> None:
    print(f"dnallm_jax {sentence}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    run()
