"""The errors a user can meet: one sentence, one hint, one exit code."""

from __future__ import annotations


class Ds2cError(Exception):
    """The run failed.

    `message` says what is wrong and where; `hint` says what to do about it.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(Ds2cError):
    """The words of the command are wrong, or would replace a different result."""

    exit_code = 2


class InputError(Ds2cError):
    """The input is missing, malformed or contradictory."""

    exit_code = 3


class WeightsError(Ds2cError):
    """Encoder weights or a model cannot be reached."""

    exit_code = 4


class Stopped(BaseException):
    """A signal asked for a stop; a BaseException, so that no handler swallows it."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.exit_code = 128 + signum
