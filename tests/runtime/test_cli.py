"""Command lines: what help says, and how a flag that cannot be taken is refused."""

import pytest

import data_generation
import evaluate
import sample
import train

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
