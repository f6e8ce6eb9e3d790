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
    """The run itself failed, a loss that is not finite for instance (exit status 1); `one_rank` as for UserError."""

    def __init__(self, message, one_rank=False):
        super().__init__(message)
        self.one_rank = one_rank


class NotFiniteError(RunError):
    """A loss is not finite; `facts` says where: epoch, step, ranks, and the images of their batches."""

    def __init__(self, message, facts):
        super().__init__(message)
        self.facts = facts


class Stopped(Exception):  # noqa: N818 - not an error
    """A signal asked the run to stop, and all ranks do (exit status 128 + `number`)."""

    def __init__(self, number):
        super().__init__("signal %d" % number)
        self.number = number
        self.is_saved = False
