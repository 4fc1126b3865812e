"""The error that ends a command with a message instead of a traceback."""


class CommandError(Exception):
    """The command can't go on; its text is for the user."""

    def __init__(self, message: str, *, exit_status: int) -> None:
        super().__init__(message)
        self.exit_status = exit_status
