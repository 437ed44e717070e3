"""Data sets by name: nothing is returned that is not what the catalogue promises."""

import hashlib
import io
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch

from drrlib.errors import ConfigError, DatasetError
from drrlib.lab import datasets
from drrlib.volume import Volume

GOOD = b"a small file"
HEADER = "name,file,url,sha256,licence,citation,description\n"


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.append(self.path)
        if self.path == "/missing":
            self.send_error(404)
            return
        data = self.server.files.get(self.path, GOOD)
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[:5] if self.path == "/cut" else data)

    def log_message(self, *_):
        """Nothing on the terminal."""


@pytest.fixture
def server():
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.asked, server.files = [], {}
        server.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A checkout with an empty data folder and a cache of its own; no local data."""
    monkeypatch.setenv("DRRLIB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("DRRLIB_DATA", raising=False)
    (tmp_path / "data" / "sources").mkdir(parents=True)
    return tmp_path


def catalogue(root, url, digest=None, file="place/one.bin"):
    row = f"one,{file},{url},{sha256(GOOD) if digest is None else digest},MIT,Somebody 1999,A file"
    (root / "data" / "sources.csv").write_text(f"# what it is\n{HEADER}{row}\n")


def kept(root):
    return [p for p in (root / "cache").rglob("*") if p.is_file()]


def test_a_good_file_is_fetched_once(root, server):
    catalogue(root, server.url + "/one")
    assert datasets.names(root) == ["one"]
    found = datasets.path("one", root)
    assert found.read_bytes() == GOOD and kept(root) == [found]
    assert datasets.path("one", root) == found and server.asked == ["/one"]
    found.write_bytes(b"damaged")
    assert datasets.path("one", root).read_bytes() == GOOD and len(server.asked) == 2


@pytest.mark.parametrize("case", ["another file", "cut short", "missing", "offline"])
def test_a_failed_download_leaves_nothing_and_says_what_to_do(root, server, case):
    place = {"cut short": "/cut", "missing": "/missing"}.get(case, "/one")
    url = "http://127.0.0.1:9/one" if case == "offline" else server.url + place
    catalogue(root, url, sha256(b"other") if case == "another file" else None)
    with pytest.raises(DatasetError, match="could not be fetched") as caught:
        datasets.path("one", root)
    for word in (url, "Check the network", "DRRLIB_DATA", "data/sources.csv"):
        assert word in str(caught.value)
    assert kept(root) == []


def test_a_local_folder_is_looked_at_first(root, server, monkeypatch):
    catalogue(root, server.url + "/one")
    monkeypatch.setenv("DRRLIB_DATA", str(root / "mine"))
    with pytest.raises(ConfigError, match="expected a folder"):
        datasets.path("one", root)
    file = root / "mine" / "place" / "one.bin"
    file.parent.mkdir(parents=True)
    file.write_bytes(GOOD)
    assert datasets.path("one", root) == file and not server.asked
    file.write_bytes(b"changed")
    with pytest.raises(DatasetError, match="changed or damaged"):
        datasets.path("one", root)
    file.unlink()
    assert datasets.path("one", root).read_bytes() == GOOD and server.asked


def test_a_folder_is_fetched_by_its_list(root, server):
    listing = "".join(f"{sha256(GOOD)}  {name}\n" for name in ("I10", "I20"))
    (root / "data" / "sources" / "one.sha256").write_text(listing)
    catalogue(root, server.url + "/series/", sha256(listing.encode()), "place/series")
    folder = datasets.path("one", root)
    assert sorted(p.name for p in folder.iterdir()) == ["I10", "I20"]
    assert server.asked == ["/series/I10", "/series/I20"]
    # The list itself is covered by the catalogue's checksum.
    (root / "data" / "sources" / "one.sha256").write_text(listing.replace("I20", "I30"))
    with pytest.raises(DatasetError, match="expected"):
        datasets.path("one", root)


def test_a_folder_may_have_folders_and_other_names_at_its_origin(root, server):
    listing = f"{sha256(GOOD)}  images/a.tif  Cam1/000.tif\n{sha256(GOOD)}  models/b.stl\n"
    (root / "data" / "sources" / "one.sha256").write_text(listing)
    catalogue(root, server.url + "/study/", sha256(listing.encode()), "place/study")
    folder = datasets.path("one", root)
    assert (folder / "images" / "a.tif").read_bytes() == GOOD
    assert server.asked == ["/study/Cam1/000.tif", "/study/models/b.stl"]


@pytest.mark.parametrize("name", ["../evil", "/evil", "..", "a/../b", "I10 /evil"])
def test_no_name_leaves_the_folder(root, server, name):
    listing = f"{sha256(GOOD)}  {name}\n"
    (root / "data" / "sources" / "one.sha256").write_text(listing)
    catalogue(root, server.url + "/series/", sha256(listing.encode()))
    with pytest.raises(ConfigError, match="expected SHA-256 and name"):
        datasets.path("one", root)
    catalogue(root, server.url + "/one", file="../one.bin")
    with pytest.raises(ConfigError, match="leaves its folder"):
        datasets.path("one", root)
    assert not server.asked and not kept(root)


def test_an_entry_without_download_says_where_to_put_the_file(root):
    catalogue(root, "")
    with pytest.raises(DatasetError, match=r"no download .*DRRLIB_DATA .*place/one\.bin"):
        datasets.path("one", root)


def wheel(server, root, member, data=GOOD, wanted=None):
    """A wheel with one member on the server, and a catalogue that asks for it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(member, data)
    server.files["/some-1.0-py3-none-any.whl"] = buffer.getvalue()
    catalogue(root, f"{server.url}/some-1.0-py3-none-any.whl!/{wanted or member}")


def test_a_member_of_a_wheel(root, server):
    wheel(server, root, "some/data/one.bin")
    found = datasets.path("one", root)
    assert found == root / "cache" / "place" / "one.bin" and found.read_bytes() == GOOD
    assert datasets.path("one", root) == found and len(server.asked) == 1


def test_a_hostile_wheel_writes_nowhere_else(root, server):
    wheel(server, root, "../../evil.bin")
    assert datasets.path("one", root) == root / "cache" / "place" / "one.bin"
    assert not list(root.rglob("evil.bin")) and len(kept(root)) == 1


@pytest.mark.parametrize("fault", ["size", "member", "network", "checksum", "zip"])
def test_a_wheel_that_cannot_be_used(root, server, monkeypatch, fault):
    data = b"other" if fault == "checksum" else GOOD
    wheel(server, root, "some/one.bin", data, "some/two.bin" if fault == "member" else None)
    if fault == "size":
        monkeypatch.setattr(datasets, "MAX_MEMBER", 4)
    if fault == "network":
        catalogue(root, server.url + "/missing!/some/one.bin")
    if fault == "zip":
        server.files["/some-1.0-py3-none-any.whl"] = b"no archive"
    says = {"size": "at most 4", "member": "two.bin", "network": "404", "checksum": "hash"}
    with pytest.raises(DatasetError, match=says.get(fault, "not a zip")):
        datasets.path("one", root)
    assert kept(root) == []


def test_unknown_names_are_told():
    with pytest.raises(ConfigError, match=r"'skul' is unknown; choose one of plastic_skull"):
        datasets.path("skul")


def test_the_catalogue_is_complete():
    table = datasets._catalogue(None)
    assert table["name"].is_unique and table["file"].is_unique
    assert table["sha256"].str.fullmatch(r"[0-9a-f]{64}").all()
    assert (table[["licence", "citation", "description"]] != "").all(axis=None)
    wheel = table["url"].str.contains(r"-\d+\.\d+\.\d+-.*\.whl!/")
    pinned = table["url"].str.contains(r"/[0-9a-f]{10,40}/") | wheel
    assert (pinned | (table["url"] == "")).all()
    for name in datasets.names():
        assert datasets._files(datasets._entry(name, None), None)
    assert "Armato" in datasets.citation("thorax") and "CC BY 3.0" in datasets.citation("thorax")


REAL = {
    "plastic_skull": (512, 512, 54),
    "plastic_skull_1mm": (512, 512, 140),
    "plastic_skull_5mm": (512, 512, 28),
    "thorax": (512, 512, 133),
    "pelvis": (122, 101, 112),
    "heart": (120, 126, 164),
}


BIPLANE = ("wrist_biplane", "knee_implant_biplane")


@pytest.mark.parametrize("name", REAL)
def test_real_data_by_name(real_data, monkeypatch, name):
    monkeypatch.setenv("DRRLIB_DATA", str(real_data))
    assert set(REAL) | {"plastic_skull_localizer", *BIPLANE} == set(datasets.names())
    if not (real_data / datasets._entry(name, None)["file"]).exists():
        pytest.skip(f"DRRLIB_DATA does not hold {name}")
    volume = datasets.volume(name)
    assert volume.shape == REAL[name]
    # Bone or contrast medium is there, and nothing beyond metal.
    assert 0.025 < float(volume.mu.max()) < 0.2
    assert bool(torch.isfinite(volume.mu).all())


def test_what_is_not_listed_is_not_read(root, server, monkeypatch):
    """A folder may hold more than the catalogue's list; only checked files make the volume."""
    listing = "".join(f"{sha256(GOOD)}  {name}\n" for name in ("I10", "I20"))
    (root / "data" / "sources" / "one.sha256").write_text(listing)
    catalogue(root, server.url + "/series/", sha256(listing.encode()), "place/series")
    folder = datasets.path("one", root)
    (folder / "I30").write_bytes(b"a slice that nobody checked")
    read, empty = [], Volume(torch.zeros(2, 2, 2), torch.eye(4))
    monkeypatch.setattr(datasets, "read_volume", lambda paths: read.append(paths) or empty)
    assert datasets.volume("one", root) is empty
    assert read == [[folder / "I10", folder / "I20"]]
