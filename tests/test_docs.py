"""The documents: links lead somewhere, commands are accepted, the README stays short."""

import importlib
import pathlib
import re
import shlex

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
MAX_WORDS = 1500  # of the README


def commands(text):
    """(script, words) of each indented or fenced `python SCRIPT ...`."""
    lines = text.replace("\\\n", " ")
    found = re.findall(r"^(?:    )?(?:\w+=\S+ )?python (\w+)\.py(.*)$", lines, re.MULTILINE)
    return [(script, shlex.split(words, comments=True)) for script, words in found]


COMMANDS = [command for page in PAGES for command in commands(page.read_text())]


def anchors(text):
    """Anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)\s]+)\)", page.read_text())
    for link in links:
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target.read_text()), link


@pytest.mark.parametrize(("script", "words"), COMMANDS, ids=lambda value: str(value)[:40])
def test_commands_are_accepted(script, words):
    importlib.import_module(script).build_parser().parse_args(words)


def test_commands_are_found():
    scripts = [script for script, _ in commands((ROOT / "README.md").read_text())]
    assert scripts == [
        *("data_generation", "train", "sample", "evaluate"),
        *("data_generation", "train", "sample"),
        *("data_generation", "train", "sample", "sample", "sample"),
        *("sample", "train", "sample", "evaluate"),
    ]


def test_make_targets_exist():
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {
        name for page in PAGES for name in re.findall(r"(?:`|    )make ([\w-]+)", page.read_text())
    }
    assert named <= targets


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text().split()) <= MAX_WORDS
