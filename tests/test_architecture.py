"""The arrows of docs/architecture.md, and the sizes of functions, read off the syntax trees."""

import ast
import pathlib
import subprocess

import pytest

ROOT = pathlib.Path(__file__).parents[1]
SCRIPTS = ("data_generation", "train", "sample", "evaluate")
PACKAGES = ("sky", "diffusion", "checks", "figures", "runtime", "studies", "benchmarks", "tests")
ARROWS = {  # what each part may import of the project
    "runtime": {"runtime"},
    "sky": {"sky", "runtime"},
    "checks": {"checks", "runtime"},
    "figures": {"figures"},
    "sde_utils": set(),
    "model": {"sde_utils"},
    "diffusion": {"diffusion", "runtime", "model", "sde_utils"},
    **dict.fromkeys(
        SCRIPTS, {"sky", "diffusion", "checks", "figures", "runtime", "model", "sde_utils"}
    ),
}
FOREIGN = {  # packages that a part does not know
    "runtime": {"camb", "healpy", "pysm3"},
    "sky": {"torch"},
    "checks": {"torch", "camb", "healpy", "pysm3"},
    "figures": {"torch", "camb", "healpy", "pysm3"},
    "diffusion": {"camb", "healpy", "pysm3", "matplotlib"},
    "model": {"camb", "healpy", "pysm3", "matplotlib"},
    "sde_utils": {"camb", "healpy", "pysm3", "matplotlib"},
}
MAX_LINES, MAX_PARAMETERS, MAX_FILE_LINES = 60, 6, 400


def source_files():
    """The tracked and the new Python files, tests left out."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.py"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    paths = [pathlib.Path(name) for name in names.split() if (ROOT / name).exists()]
    return [path for path in paths if path.parts[0] != "tests"]


def module_name(path):
    """Dotted name of a file; that of the package for its __init__.py."""
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


FILES = {module_name(path): path for path in source_files()}
TREES = {name: ast.parse((ROOT / path).read_text()) for name, path in FILES.items()}


def imports(tree):
    """Dotted names of all that a module imports, anywhere in it."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in FILES else node.module)
    return found


IMPORTS = {name: imports(tree) for name, tree in TREES.items()}


def part(name):
    return name.partition(".")[0]


def wrong_arrows(graph):
    """[(module, what it imports)] that ARROWS and FOREIGN forbid."""
    own = {part(name) for name in FILES} | set(PACKAGES)
    return [
        (name, target)
        for name, targets in graph.items()
        for target in sorted(targets)
        if part(target) in FOREIGN.get(part(name), ())
        or (part(target) in own and part(target) not in ARROWS.get(part(name), own))
    ]


def cycle(graph):
    """Modules that import each other in a circle; empty where there is none."""
    left = {name: targets & graph.keys() - {name} for name, targets in graph.items()}
    while free := {name for name, targets in left.items() if not targets}:
        left = {name: targets - free for name, targets in left.items() if name not in free}
    return sorted(left)


def test_arrows_run_one_way():
    assert wrong_arrows(IMPORTS) == []
    assert cycle(IMPORTS) == []
    assert not IMPORTS["runtime.errors"] & FILES.keys()


def test_no_part_is_without_a_rule():
    assert {part(name) for name in FILES} <= {*ARROWS, "studies", "benchmarks", "setup"}
    assert not [name for name in FILES if "util" in name and name != "sde_utils"]


def test_a_wrong_arrow_is_seen():
    assert wrong_arrows({"sky.cosmology": {"diffusion.trainer"}})
    assert wrong_arrows({"checks.exact": {"torch"}})
    assert wrong_arrows({"diffusion.trainer": {"train"}})
    assert cycle({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}})


def functions(tree):
    return [n for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))]


@pytest.mark.parametrize("name", FILES)
def test_a_reader_can_hold_it(name):
    """Files, functions and lists of parameters stay short; self and cls count as none."""
    assert len((ROOT / FILES[name]).read_text().splitlines()) <= MAX_FILE_LINES
    for node in functions(TREES[name]):
        parameters = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        parameters = [p for p in parameters if p.arg not in ("self", "cls")]
        lines = node.end_lineno - node.lineno + 1
        assert lines <= MAX_LINES, f"{name}.{node.name} has {lines} lines"
        assert len(parameters) <= MAX_PARAMETERS, f"{name}.{node.name}: {len(parameters)}"
