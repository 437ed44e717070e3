"""The command `drrlib`; `python -m drrlib` is the same."""

import importlib
import sys
from collections.abc import Sequence

_HELP = """usage: drrlib COMMAND ...

commands:
  check                            what runs here: versions, devices, each backend's error and time
  render CT -o drr.png             a CT as an X-ray image (a DRR) of any view
  register CT XRAY -o pose.json    where an X-ray image was taken, with a report to look at
  study FILE.toml                  run a study of many trials from a file, or go on with it

drrlib COMMAND --help says more, with examples. drrlib --version says which version this is."""

_MODULES = {name: f"drrlib.cli.{name}" for name in ("check", "render", "register")}
_MODULES["study"] = "drrlib.lab.studies.command"


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: that of the command; 2 for one that is not known or not installed."""
    given = list(sys.argv[1:] if argv is None else argv)
    if given == ["--version"]:
        from drrlib.versions import installed_version

        print(f"drrlib {installed_version('drrlib')}")
        return 0
    if given and given[0] in _MODULES:
        try:
            command = importlib.import_module(_MODULES[given[0]])
        except ModuleNotFoundError as error:
            print(f'{given[0]}: {error}; run pip install "drrlib[lab]"', file=sys.stderr)
            return 2
        return command.main(given[1:])
    asked = given[:1] in (["-h"], ["--help"])
    print(_HELP, file=sys.stdout if asked else sys.stderr)
    return 0 if asked else 2
