"""The command `drrlib`; `python -m drrlib` is the same."""

import sys
from collections.abc import Sequence

_HELP = """usage: drrlib COMMAND ...

commands:
  study FILE.toml    run a study of many trials from a file, or go on with it

drrlib COMMAND --help says more."""


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: that of the command; 2 for one that is not known or not installed."""
    given = list(sys.argv[1:] if argv is None else argv)
    if given[:1] == ["study"]:
        try:
            from drrlib.lab.studies import command
        except ModuleNotFoundError as error:
            print(f'study: {error}; run pip install "drrlib[lab]"', file=sys.stderr)
            return 2
        return command.main(given[1:])
    asked = given[:1] in (["-h"], ["--help"])
    print(_HELP, file=sys.stdout if asked else sys.stderr)
    return 0 if asked else 2
