"""Command lines: what help says, and how a flag that cannot be taken is refused."""

import os
import pathlib
import subprocess
import sys

import pytest

import data_generation
import evaluate
import sample
import train

ROOT = pathlib.Path(__file__).parents[2]
PARSERS = [data_generation.build_parser, train.build_parser, sample.build_parser]
PARSERS.append(evaluate.build_parser)


def described(parser):
    """Flags and their help, as a reader sees it, of all options but --help and switches."""
    formatter = parser._get_formatter()
    for action in parser._actions:
        if action.nargs != 0:
            yield action, formatter._expand_help(action)


@pytest.mark.parametrize("build_parser", PARSERS)
def test_help_shows_each_default_as_it_is_typed(build_parser):
    for action, told in described(build_parser()):
        assert told and not set("[]'") & set(told.partition("(default:")[2]), action.dest
        if action.default not in (None, []):
            assert "(default: " in told, action.dest


@pytest.mark.parametrize("build_parser", PARSERS)
@pytest.mark.parametrize("words", [["--seed", "x"], ["--unknown"], ["--row", "1.5"], ["word"]])
def test_a_wrong_flag_is_one_line(build_parser, words, capsys):
    with pytest.raises(SystemExit) as stop:
        build_parser().parse_args(words)
    (line,) = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2 and "error: " in line


@pytest.mark.parametrize("build_parser", [train.build_parser, sample.build_parser])
def test_help_says_which_sde_it_is(build_parser):
    told = {action.dest: text for action, text in described(build_parser())}
    assert "(default: " in told["sde_type"] and "(default: " in told["beta_max"]


IMPORTS = """
from runtime import cli

@cli.script
def main(argv):
    import matplotlib
    matplotlib.get_configdir()

main()
"""


def test_a_home_that_cannot_be_written_is_no_news(tmp_path):
    home = {"HOME": os.devnull, "XDG_CONFIG_HOME": os.devnull, "XDG_CACHE_HOME": os.devnull}
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path), **home}
    environment.pop("MPLCONFIGDIR", None)
    command = [sys.executable, "-c", IMPORTS]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
