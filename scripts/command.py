"""What the scripts share: a folder and key=value options on the command line, and how a script ends."""

import sys
from collections.abc import Callable, Collection

from conf.own import names_own, used_by
from eval.record.command import answering


def folder_and_options(arguments: list[str], usage: str, known: Collection[str] = ()) -> tuple[str, dict[str, str]]:
    """The one folder and the options, key=value, of a command; --help says its usage and ends the process.

    Raises ValueError, with the usage, for anything else. A folder's name may hold a "=", too.
    """
    options, folders = split_options(arguments, usage, known)
    if len(folders) != 1:
        raise ValueError(usage)
    return folders[0], options


def split_options(arguments: list[str], usage: str, known: Collection[str]) -> tuple[dict[str, str], list[str]]:
    """The known options, key=value, of a command, and its other arguments; --help says its usage and ends the process.
    Raises ValueError for an option that is given twice."""
    if {"-h", "--help"} & {*arguments}:
        print(usage)
        sys.exit()
    options, others = {}, []
    for argument in arguments:
        key, _, value = argument.partition("=")
        if key in options:
            raise ValueError(f"{key}= is given twice: give it once")
        if "=" in argument and key in known:
            options[key] = value
        else:
            others.append(argument)
    return options, others


def number(name: str, text: str, kind: type) -> float:
    """An option's number, of this kind. Raises ValueError, naming the option, where it is none."""
    try:
        return kind(text)
    except ValueError:
        raise ValueError(f"{name}={text}: must be a number") from None


def rewritten(page: str, name: str, body: str) -> str:
    """A page with what stands between <!-- NAME: begin --> and <!-- NAME: end --> replaced by `body`.
    Raises ValueError where it has no such place."""
    begins, ends = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    if begins not in page or ends not in page:
        raise ValueError(f"the page has no place for it, between {begins} and {ends}")
    return f"{page.partition(begins)[0]}{begins}\n{body}\n{ends}{page.partition(ends)[2]}"


def end_with(main: Callable[[list[str]], int | None]) -> None:
    """Ends the process with what main makes of the command line: its exit code, or a user's mistake in one sentence.
    encoding_path=FOLDER, which each script takes, is in use by then, and none of main's arguments."""
    with answering():
        arguments = used_by(sys.argv[1:])
        sys.exit(main([each for each in arguments if not names_own(each)]))
