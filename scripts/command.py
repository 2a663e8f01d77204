"""What the scripts share: a folder and key=value options on the command line, and how a script ends."""

import sys
from collections.abc import Callable, Collection

from eval.record.command import answering


def folder_and_options(arguments: list[str], usage: str, known: Collection[str] = ()) -> tuple[str, dict[str, str]]:
    """The one folder and the options, key=value, of a command; --help says its usage and ends the process.

    Raises ValueError, with the usage, for anything else. A folder's name may hold a "=", too.
    """
    if {"-h", "--help"} & {*arguments}:
        print(usage)
        sys.exit()
    options = dict(argument.split("=", 1) for argument in arguments if argument.partition("=")[0] in known)
    folders = [argument for argument in arguments if argument.partition("=")[0] not in known]
    if len(folders) != 1:
        raise ValueError(usage)
    return folders[0], options


def number(name: str, text: str, kind: type) -> float:
    """An option's number, of this kind. Raises ValueError, naming the option, where it is none."""
    try:
        return kind(text)
    except ValueError:
        raise ValueError(f"{name}={text}: must be a number") from None


def end_with(main: Callable[[list[str]], int | None]) -> None:
    """Ends the process with what main makes of the command line: its exit code, or a user's mistake in one sentence."""
    with answering():
        sys.exit(main(sys.argv[1:]))
