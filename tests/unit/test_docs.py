"""The docs: what they name exists."""

import ast
import re
from functools import cache
from itertools import chain
from pathlib import Path

import pytest

from tests.imports import imports, nodes

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
FOLDERS = {"docs", "mlflow", "requirements", "scripts", "serve", "tests", "trainer"}
SCRIPT = re.compile(r"scripts/(\w+)\.py\b(?: +([^`\n#]*))?")
"""A script in a text, and what follows it on the command line."""
TERMS = {
    "bin",
    "champion",
    "challenger",
    "gate",
    "promoter",
    "canary",
    "probation",
    "execution",
    "golden photo",
    "conformal set",
}

page = pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))


def slug(heading: str) -> str:
    """The anchor that a Markdown renderer gives to a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def headings(path: Path) -> list[str]:
    """The headings of a page, outside its code."""
    return re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.M | re.S), re.M)


@page
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        target, _, anchor = link.partition("#")
        path = (page.parent / target).resolve() if target else page
        if ":" in target:
            continue
        if not path.exists() or (anchor and anchor not in map(slug, headings(path))):
            broken.append(link)
    assert broken == []


@page
def test_every_path_exists(page: Path) -> None:
    """Paths below a folder of the repository; ``*`` stands for any name, as in a shell."""
    words = re.findall(r"(?<![\w/.:<>-])((?:[\w.-]+/)+[\w.*-]*)", page.read_text())
    paths = {word.rstrip(".") for word in words if word.split("/")[0] in FOLDERS}
    assert {path for path in paths if not any(ROOT.glob(path.rstrip("/")))} == set()


@cache
def option_names(script: Path) -> frozenset[str]:
    """What can be part of an option's name: strings and fields in a script and in the modules that it imports."""
    modules = {script, *imports(script, script.parent), *imports(script, ROOT)}
    modules |= set(chain.from_iterable(imports(module, ROOT) for module in modules))
    names = set()
    for node in chain.from_iterable(map(nodes, modules)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            names.add(node.value.removeprefix("--").replace("_", "-"))
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id.replace("_", "-"))
    return frozenset(names)


@page
def test_every_script_has_the_options_that_are_named(page: Path) -> None:
    for name, words in SCRIPT.findall(page.read_text()):
        script = ROOT / "scripts" / f"{name}.py"
        assert script.is_file(), name
        options = {option.rstrip("=") for option in re.findall(r"(?<!\S)--([a-z0-9-]+)", words)}
        assert options - option_names(script) == set(), script.name


def test_options_that_no_script_has_are_noticed() -> None:
    assert {"rollback", "max-class-loss"} <= option_names(ROOT / "scripts" / "promote.py")
    assert "no-such-option" not in option_names(ROOT / "scripts" / "promote.py")


@page
def test_every_target_of_make_exists(page: Path) -> None:
    targets = set(re.findall(r"^([a-z0-9]+):", (ROOT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"(?:`|\$ |^)make ([a-z0-9]+)", page.read_text(), re.M)) <= targets


@cache
def variables() -> frozenset[str]:
    """The BINWATCH_* variables that code, images and compose files name."""
    folders = ("serve", "trainer", "scripts", "tests", "mlflow")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.suffix in (".py", "")]
    files += [ROOT / ".env.example", *ROOT.glob("docker-compose*.yml")]
    texts = [path.read_text() for path in files if path.is_file()]
    return frozenset(chain.from_iterable(re.findall(r"BINWATCH_[A-Z0-9_]*[A-Z0-9]", text) for text in texts))


@page
def test_every_variable_is_known(page: Path) -> None:
    """``BINWATCH_GATE_...`` stands for all that begin like this."""
    groups = set(re.findall(r"\b(BINWATCH_[A-Z0-9_]*_)\.\.\.", page.read_text()))
    assert {group for group in groups if not any(name.startswith(group) for name in variables())} == set()
    assert set(re.findall(r"\bBINWATCH_[A-Z0-9_]*[A-Z0-9]\b", page.read_text())) <= variables()


def test_every_folder_of_code_is_in_the_architecture() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    folders = {path.parent.relative_to(ROOT) for room in ("serve", "trainer") for path in (ROOT / room).rglob("*.py")}
    assert {str(folder) for folder in folders if f"| `{folder}/` |" not in text} == set()


def test_every_decision_is_in_the_index() -> None:
    folder = ROOT / "docs" / "decisions"
    names = {path.name for path in folder.glob("[0-9]*.md")}
    assert set(re.findall(r"\(([0-9]{4}-[a-z0-9-]+\.md)\)", (folder / "README.md").read_text())) == names
    numbers = [name[:4] for name in names]
    assert len(set(numbers)) == len(numbers)


def test_the_glossary_has_ten_words() -> None:
    glossary = (ROOT / "README.md").read_text().partition("## Glossary")[2].partition("\n## ")[0]
    assert set(re.findall(r"^\| ([a-z ]+) \|", glossary, re.M)) - {"word"} == TERMS
