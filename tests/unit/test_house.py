"""The house: the layout, the imports and the names that a reader can rely on."""

import ast
import builtins
import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import grimp
from importlinter import configuration
from importlinter.application.use_cases import lint_imports

from tests.imports import nodes

ROOT = Path(__file__).parents[2]
CODE = sorted(path for folder in ("serve", "trainer", "scripts") for path in (ROOT / folder).rglob("*.py"))
FILLERS = frozenset(
    {
        "each",
        "found",
        "made",
        "wanted",
        "kept",
        "said",
        "ours",
        "theirs",
        "given",
        "asked",
        "came",
        "told",
        "seen",
        "other",
    }
)
"""Words that a name can consist of without saying what it holds."""


def test_imports_point_one_way() -> None:
    configuration.configure()
    assert lint_imports(config_filename=str(ROOT / "pyproject.toml"), cache_dir=None)


def room(module: str) -> str:
    """The folder of a module, as a dotted name; ``serve`` for what travels in an archive."""
    first, *rest = module.split(".")
    inner = rest and rest[0] != "evidence" and (ROOT / first / rest[0]).is_dir()
    return f"{first}.{rest[0]}" if inner or (rest and first == "trainer") else first


def test_the_folders_stand_on_few_floors() -> None:
    graph = grimp.build_graph("serve", "trainer", exclude_type_checking_imports=True, cache_dir=None)
    below: dict[str, set[str]] = {}
    for module in graph.modules:
        imported = {room(name) for name in graph.find_modules_directly_imported_by(module)}
        below.setdefault(room(module), set()).update(imported - {room(module)})

    @cache
    def floor(name: str) -> int:
        return 1 + max((floor(other) for other in below.get(name, ())), default=0)

    assert max(map(floor, below)) <= 7


def test_a_folder_holds_no_more_modules_than_a_reader_can_take_in() -> None:
    folders = Counter(path.parent for path in CODE if path.name != "__init__.py" and path.parts[-2] != "scripts")
    assert {str(folder.relative_to(ROOT)): number for folder, number in folders.items() if number > 16} == {}


def test_no_module_has_the_name_of_another() -> None:
    stems = Counter(path.stem for path in CODE if not path.stem.startswith("__") and path.parent.name != "scripts")
    assert {stem for stem, number in stems.items() if number > 1} == set()


def test_every_folder_says_what_it_is() -> None:
    packages = {path.parent for path in CODE if path.parent.name != "scripts"}
    assert [str(folder) for folder in packages if not (folder / "__init__.py").read_text().startswith('"""')] == []


def bindings(path: Path) -> Iterator[tuple[str, int]]:
    """The names that a file's code binds, and their lines."""
    for node in nodes(path):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id, node.lineno
        elif isinstance(node, ast.arg):
            yield node.arg, node.lineno


def test_names_are_nouns_of_what_they_hold() -> None:
    names = [(path, *binding) for path in CODE for binding in bindings(path)]
    fillers = [f"{path.relative_to(ROOT)}:{line} {name}" for path, name, line in names if name.strip("_") in FILLERS]
    assert len(fillers) < 0.01 * len(names), "\n".join(fillers)


def test_nothing_shadows_a_builtin() -> None:
    names = frozenset(name for name in dir(builtins) if not name.startswith("_"))
    shadows = [f"{path.relative_to(ROOT)}:{line} {name}" for path in CODE for name, line in bindings(path)]
    assert [shadow for shadow in shadows if shadow.rpartition(" ")[2] in names - FIELDS] == []


FIELDS = frozenset({"id", "format", "bin"})
"""Builtins that are fields of records which are written to disk under these names."""


def test_the_formatter_has_no_exceptions() -> None:
    paths = [*CODE, *(ROOT / "tests").rglob("*.py")]
    assert [str(path) for path in paths if re.search(r"# fmt: (skip|off)\b", path.read_text())] == []


def uses_of_any(path: Path) -> int:
    """How often a file's annotations say Any."""
    return sum(isinstance(node, ast.Name) and node.id == "Any" for node in nodes(path))


def test_values_have_types() -> None:
    uses = Counter({str(path.relative_to(ROOT)): uses_of_any(path) for path in CODE})
    assert uses.total() < 80, uses.most_common(20)


def test_scripts_are_thin() -> None:
    lines = {path.name: len(path.read_text().splitlines()) for path in CODE if path.parent.name == "scripts"}
    tables = {"_cli.py", "_options.py", "bench.py"}  # a line for each option or benchmark
    assert {name: number for name, number in lines.items() if number > 60 and name not in tables} == {}


def test_the_readme_is_read_in_five_minutes() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_the_images_with_torch_share_its_layer() -> None:
    heads = [(ROOT / room / "Dockerfile").read_text().split("# -- shared --")[0] for room in ("trainer", "serve")]
    first, second = (head[head.index("\nFROM ") :].splitlines() for head in heads)
    assert first == second
    assert any("-r requirements/torch.txt" in line for line in first)


def test_the_server_for_cpus_installs_no_torch() -> None:
    lines = (ROOT / "requirements" / "serve.txt").read_text().splitlines()
    assert not [line for line in lines if not line.startswith("#") and re.search(r"\btorch(vision)?\b", line)]


def pins(name: str) -> dict[str, str]:
    """The versions that a file of requirements/ pins, by package."""
    lines = [line for line in (ROOT / "requirements" / name).read_text().splitlines() if "==" in line]
    return {line.split("==")[0].lower().replace("_", "-"): line.split("==")[1] for line in lines}


def test_versions_are_pinned_in_one_place_for_each_environment() -> None:
    first, toolkits = pins("constraints.txt"), pins("sagemaker-constraints.txt")
    for path in (ROOT / "requirements").glob("*.txt"):
        if not path.stem.endswith("constraints"):
            lines = [line for line in path.read_text().splitlines() if line and not line.startswith(("#", "-"))]
            names = toolkits if path.stem == "sagemaker" else first
            assert {line.partition(";")[0].lower() for line in lines} <= set(names)
    assert not {name for name in first.keys() & toolkits.keys() if first[name] == toolkits[name]}
    pinned = re.compile(r"[A-Za-z0-9_.-]+==\d")
    others = [*ROOT.glob("*/Dockerfile"), ROOT / "pyproject.toml", ROOT / "Makefile", ROOT / "docker-compose.yml"]
    assert not [path for path in others if pinned.search(path.read_text())]


def test_every_target_of_the_makefile_is_in_its_help() -> None:
    text = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z0-9]+):", text, re.MULTILINE))
    assert targets == set(re.findall(r"^([a-z0-9]+):.*##", text, re.MULTILINE))
    assert targets >= {"help", "demo", "test", "e2e", "check", "proof", "bench", "up", "down"}
