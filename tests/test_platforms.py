"""The core runs where Python and PyTorch do: what only POSIX has is not used, or asked for first.

The sources are read, since these tests run on one system at a time. `.github/workflows/tests.yml`
runs the core's tests on Linux, Windows and macOS.
"""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CORE = [p for p in sorted((ROOT / "drrlib").rglob("*.py")) if "lab" not in p.parts]
POSIX_MODULES = {"fcntl", "grp", "posix", "pty", "pwd", "resource", "syslog", "termios", "tty"}
POSIX_NAMES = {
    "os": "chown fork forkpty getloadavg getuid geteuid killpg mkfifo nice register_at_fork "
    "sched_getaffinity setsid sysconf uname wait3 wait4".split(),
    "signal": "SIGALRM SIGHUP SIGKILL SIGUSR1 SIGUSR2 alarm pause setitimer".split(),
    # Windows renames over no file, and lets no second one open a file that is kept open.
    "tempfile": ["NamedTemporaryFile"],
}


def faults(source: str) -> list[str]:
    """What in a module would fail, or do something else, on another system."""
    tree = ast.parse(source)
    asked = {  # os.register_at_fork under `if hasattr(os, "register_at_fork")`
        id(node)
        for test in ast.walk(tree)
        if isinstance(test, ast.If) and "hasattr" in ast.unparse(test.test)
        for node in ast.walk(test)
    }
    return [
        f"line {node.lineno}: {said}"
        for node in ast.walk(tree)
        if id(node) not in asked and (said := _fault(node))
    ]


def _fault(node: ast.AST) -> str | None:
    match node:
        case ast.Import(names=names):
            found = sorted({n.name.split(".")[0] for n in names} & POSIX_MODULES)
            return f"module {found[0]}" if found else None
        case ast.ImportFrom(module=str(module)) if module.split(".")[0] in POSIX_MODULES:
            return f"module {module}"
        case ast.Attribute(value=ast.Name(id=module), attr=name):
            return f"{module}.{name}" if name in POSIX_NAMES.get(module, ()) else None
        case ast.Call():
            return _fault_of_call(node)
    return None


def _fault_of_call(call: ast.Call) -> str | None:
    """Text without an encoding or with the system's line ends, renames, integers of 32 bits."""
    name = getattr(call.func, "attr", getattr(call.func, "id", ""))
    given = {k.arg: k.value for k in call.keywords}
    integer = [given.get("dtype"), *(call.args if name == "astype" else [])]
    if any(isinstance(x, ast.Name) and x.id == "int" for x in integer):
        return f"{name}: int has 32 bits on Windows before NumPy 2; say np.int64"
    if name == "rename" and len(call.args) == 1:
        return "rename fails on Windows where the target exists; say os.replace"
    if name == "write_text" and not {"encoding", "newline"} <= set(given):
        return 'write_text needs encoding= and newline="\\n"'
    if name == "read_text" and "encoding" not in given:
        return "read_text needs encoding="
    if isinstance(call.func, ast.Name) and name == "open" and "encoding" not in given:
        modes = [given.get("mode"), *call.args[1:2]]
        binary = any(isinstance(m, ast.Constant) and "b" in m.value for m in modes)
        return None if binary else "open of a text needs encoding="
    return None


@pytest.mark.parametrize("path", CORE, ids=lambda p: p.relative_to(ROOT / "drrlib").as_posix())
def test_the_core_asks_for_nothing_that_only_posix_has(path):
    assert faults(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "line",
    [
        "import fcntl",
        "from resource import getrusage",
        "os.fork()",
        "os.register_at_fork(before=f)",
        "signal.signal(signal.SIGALRM, f)",
        "tempfile.NamedTemporaryFile()",
        "path.rename(other)",
        "os.rename(a) or path.write_text('a')",
        "path.write_text('a', encoding='utf-8')",
        "path.read_text()",
        "open(path)",
        "open(path, 'w')",
        "x.astype(int)",
        "np.zeros(3, dtype=int)",
    ],
)
def test_it_is_found(line):
    assert len(faults(line)) >= 1


def test_what_is_asked_for_first_may_be_used():
    assert faults("if hasattr(os, 'fork'):\n    os.fork()") == []
    assert faults("open(path, 'rb'), path.write_text('a', encoding='ascii', newline='\\n')") == []
