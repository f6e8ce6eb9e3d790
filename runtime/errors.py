"""Errors that end a program with one line instead of a traceback."""


class UserError(ValueError):
    """What the user gave cannot work; the message names the option, path or file and says what to do (exit status 2).

    `one_rank` marks an error that only the raising process can know (an unreadable image, say); every process finds
    the others by itself, so only the first process of each node reports them.
    """

    def __init__(self, message, one_rank=False):
        super().__init__(message)
        self.one_rank = one_rank


class RunError(RuntimeError):
    """The run itself failed, a loss that is not finite for instance (exit status 1)."""
