"""Why a command could not do its work. `main` prints one line of it and exits with its status; nothing else does."""

from lmx_supervisor.cli.exit_status import ExitStatus


class CommandFailure(Exception):  # noqa: N818 - an outcome to report, not a defect
    """A command ends here: its text goes to the user, its status to the shell."""

    exit_status = ExitStatus.FAILED


class UsageFailure(CommandFailure):
    """The command line or the environment asks for something that cannot be meant."""

    exit_status = ExitStatus.USAGE


class NoServer(CommandFailure):
    """Nothing listens where the server should be."""

    exit_status = ExitStatus.NO_SERVER

    def __init__(self, url: str) -> None:
        super().__init__(f"no LMX server at {url}; start one with: lmx serve   (to try it out: lmx serve --demo)")


class NoAnswer(CommandFailure):
    """The server took the connection and then said nothing, or nothing that can be understood."""


class ServerRefused(CommandFailure):
    """The server answered with an error: its own words, and its code to branch on."""

    def __init__(self, message: str, code: str | None) -> None:
        super().__init__(f"{message} ({code})" if code else message)
        self.code = code


class CutOff(CommandFailure):
    """A stream ended before the answer did."""

    def __init__(self) -> None:
        super().__init__("the answer was cut off: the server closed the stream before the end; see: lmx ps")
