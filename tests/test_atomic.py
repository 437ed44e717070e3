"""Files are there whole or not at all."""

import pytest

from drrlib.atomic import write_whole


def test_a_file_appears_when_it_is_finished(tmp_path):
    path, seen = tmp_path / "table.csv", []

    def write(name):
        name.write_text("new")
        seen.append(path.read_text() if path.exists() else None)

    write_whole(path, write)
    write_whole(path, write)
    assert seen == [None, "new"] and path.read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["table.csv"]


def test_a_failure_leaves_the_old_file(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("old")

    def write(name):
        name.write_text("half")
        raise RuntimeError("the disk is full")

    with pytest.raises(RuntimeError, match="disk"):
        write_whole(path, write)
    assert path.read_text() == "old" and len(list(tmp_path.iterdir())) == 1
