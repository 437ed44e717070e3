"""Versions of installed packages, for records and reports."""

from importlib.metadata import PackageNotFoundError, version


def installed_version(package: str, otherwise: str = "unknown") -> str:
    """As its metadata say; `otherwise` for one that is not installed, or runs from sources."""
    try:
        return version(package)
    except PackageNotFoundError:
        return otherwise
