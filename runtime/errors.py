"""Errors that end a script with one line and an exit code; every other module may import these."""

EXIT_OUTPUT = 1  # all is done, but its results could not be printed
EXIT_INPUT = 2  # usage or input, as argparse has it
EXIT_DIVERGED = 3  # a loss or a sample stopped being finite


class InputError(ValueError):
    """What the user gave cannot be used: the message names it, and says what to do."""


class DivergedError(RuntimeError):
    """A computation stopped being finite."""


class Interrupted(BaseException):
    """A signal asked the script to stop.

    Args:
        code: Exit code, a value of `STOP_SIGNALS`.
        message: What the user is told.
    """

    def __init__(self, code: int, message: str = "interrupted") -> None:
        super().__init__(message)
        self.code = code
