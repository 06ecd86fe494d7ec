"""The errors that slimfer raises on purpose; anything else that escapes is our own bug."""


class SlimferError(Exception):
    """A failure with one clear sentence for the user and an exit code for scripts."""

    exit_code = 1


class InputError(SlimferError, ValueError):
    """The user's input is wrong: a file, a row, a flag, a combination (exit code 2)."""

    exit_code = 2


class VerificationError(SlimferError):
    """A budget or a check of the result was not met (exit code 3)."""

    exit_code = 3
