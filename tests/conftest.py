"""What all tests share. Must not import drrlib at the top: jaxtyping hooks its import later."""

import os
from pathlib import Path

import pytest
import torch

# Each of these must have run at least one test before CI may be green.
REQUIRED_BACKENDS = ("reference", "cpu", "cuda")

_passed_backends: set[str] = set()


@pytest.fixture(autouse=True)
def fresh_memory_is_nan(monkeypatch):
    """torch.empty gives NaN (integers: the largest), so that reading unwritten memory shows.

    PyTorch's own switch for this works only together with use_deterministic_algorithms, which
    turns several operations into errors; hence the wrapping.
    """

    def filled(create):
        def wrapper(*args, **kwargs):
            tensor = create(*args, **kwargs)
            if tensor.is_floating_point() or tensor.is_complex():
                return tensor.detach().fill_(float("nan")).requires_grad_(tensor.requires_grad)
            if tensor.dtype == torch.bool:
                return tensor.fill_(True)
            return tensor.fill_(torch.iinfo(tensor.dtype).max)

        return wrapper

    for name in ("empty", "empty_like", "empty_strided"):
        monkeypatch.setattr(torch, name, filled(getattr(torch, name)))
    for name in ("new_empty", "new_empty_strided"):
        monkeypatch.setattr(torch.Tensor, name, filled(getattr(torch.Tensor, name)))


@pytest.fixture(scope="session", autouse=True)
def one_thread_each(request):
    """Of several test processes; more threads than cores wait for each other most of the time."""
    if hasattr(request.config, "workerinput"):
        import numba

        numba.set_num_threads(1)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real series that DRRLIB_DATA names; the test is skipped where it is unset."""
    named = os.environ.get("DRRLIB_DATA")
    if not named:
        pytest.skip("DRRLIB_DATA is not set: no real series to read")
    folder = Path(named)
    if not folder.is_dir():
        pytest.fail(f"DRRLIB_DATA names {named!r}, which is not a folder")
    return folder


def pytest_runtest_setup(item):
    marker = item.get_closest_marker("gpu")
    if marker is None or torch.cuda.is_available():
        return
    if not (marker.kwargs.get("interpreter") and os.environ.get("TRITON_INTERPRET") == "1"):
        pytest.skip("no CUDA device")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.when == "call" and report.passed and hasattr(item, "callspec"):
        values = [v for v in item.callspec.params.values() if isinstance(v, str)]
        used = sorted(set(values) & set(REQUIRED_BACKENDS))
        report.user_properties += [("backend", name) for name in used]
    return report


def pytest_runtest_logreport(report):
    """Also called where the workers' reports arrive, with what they carry."""
    _passed_backends.update(value for key, value in report.user_properties if key == "backend")


def missing_backends(config) -> list[str]:
    """Backends without a single passed test, where CI runs the whole suite."""
    if hasattr(config, "workerinput"):  # one of several processes: the first one counts
        return []
    in_ci = os.environ.get("CI", "").lower() in ("1", "true", "yes")
    whole = config.args_source is config.ArgsSource.TESTPATHS and not config.option.keyword
    if not (in_ci and whole and not config.option.markexpr):
        return []
    return [name for name in REQUIRED_BACKENDS if name not in _passed_backends]


def pytest_sessionfinish(session, exitstatus):
    if exitstatus == pytest.ExitCode.OK and missing_backends(session.config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter, config):
    for name in missing_backends(config):
        terminalreporter.write_line(f"ERROR: backend {name!r} passed not one test", red=True)
