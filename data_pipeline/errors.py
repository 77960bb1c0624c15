"""What does a mistake of the user look like? One sentence, no traceback, exit code 2."""


class UserError(Exception):
    """A mistake in the input, the config or the command line, told in one clear sentence.

    The message names what is wrong (file, record, line, key) and what to do about it. `main.py`
    prints it on standard error and exits with code 2; a programmer's mistake raises another one.
    """


class LostError(Exception):
    """Something a run needs was taken from it, told in one sentence: started again, it goes on.

    `main.py` prints it on standard error and exits with code 75.
    """
