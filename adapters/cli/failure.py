"""The one way a command ends badly, and what its exit status means."""

DONE = 0
NO = 1
"The answer is no: it was tried, or asked, and did not hold."
USAGE = 2
"The command line or the configuration is wrong."
UNREACHABLE = 3
"No service answers."


class CommandFailed(Exception):
    """Printed to stderr by the entry point, which exits with ``status``."""

    def __init__(self, message: str, status: int = NO) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
