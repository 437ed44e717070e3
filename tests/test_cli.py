"""The command `drrlib`: which command runs, what is told where, and exit statuses.

What `drrlib study` does with its file: lab/studies/test_command.py.
"""

import json
import subprocess
import sys

import pandas as pd
import pytest

from drrlib import cli

STUDY = """
work = "registration"
trials = 3
folder = "kept"
[config]
volume = "thorax"
voxel = 12.0
pixels = 12
levels = [[1, 3]]
device = "cpu"
"""
COMMANDS = ["study"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("word", ["-h", "--help"])
def test_help_names_every_command(capsys, word):
    assert cli.main([word]) == 0
    told = capsys.readouterr()
    assert told.out.startswith("usage: drrlib COMMAND") and told.err == ""
    assert all(f"\n  {command} " in told.out for command in COMMANDS)


@pytest.mark.parametrize("words", [[], ["render_all"], ["--version"], ["", "study"]], ids=str)
def test_an_unknown_command_is_refused_with_the_help(capsys, words):
    assert cli.main(words) == 2
    told = capsys.readouterr()
    assert told.out == "" and told.err.startswith("usage: drrlib COMMAND")


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_its_own_help(capsys, command):
    with pytest.raises(SystemExit) as left:
        cli.main([command, "--help"])
    told = capsys.readouterr()
    assert left.value.code == 0 and told.err == ""
    assert told.out.startswith(f"usage: drrlib {command} ")


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("words", [[], ["file", "--no-such-option"]], ids=str)
def test_wrong_arguments_are_told_with_the_usage(capsys, command, words):
    with pytest.raises(SystemExit) as left:
        cli.main([command, *words])
    told = capsys.readouterr()
    assert left.value.code == 2 and told.out == ""
    assert f"usage: drrlib {command} " in told.err and f"drrlib {command}: error: " in told.err


def test_a_study_runs(capsys, folder):
    (folder / "study.toml").write_text(STUDY)
    assert cli.main(["study", "study.toml", "--output", "table.csv"]) == 0
    assert capsys.readouterr().out.startswith("3 trials, ")
    assert len(pd.read_csv("table.csv")) == 3


def test_a_study_without_its_file_is_refused_in_one_line(capsys):
    assert cli.main(["study", "nowhere.toml"]) == 2
    told = capsys.readouterr()
    assert told.out == "" and told.err.count("\n") == 1
    assert told.err.startswith("study: nowhere.toml cannot be read as TOML: ")


def test_without_the_laboratory_the_way_to_it_is_told(capsys, monkeypatch):
    monkeypatch.delitem(sys.modules, "drrlib.lab.studies.command", raising=False)
    monkeypatch.delattr("drrlib.lab.studies.command", raising=False)
    monkeypatch.setitem(sys.modules, "pandas", None)
    assert cli.main(["study", "study.toml"]) == 2
    told = capsys.readouterr().err
    assert "pandas" in told and told.endswith('run pip install "drrlib[lab]"\n')


def test_the_module_is_the_command(folder):
    """In a process of its own: exit status, and words from the command line."""
    command = [sys.executable, "-m", "drrlib", "study", "study.toml", "--dry-run", "--seed", "7"]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 2 and run.stdout == "" and run.stderr.startswith("study: ")
    (folder / "study.toml").write_text(STUDY)
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    told = dict(line.split(maxsplit=1) for line in run.stdout.splitlines())
    assert json.loads(told["config"])["seed"] == 7 and run.stderr == ""
