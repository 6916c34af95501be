import ast
import tomllib
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import grimp

ROOT = Path(__file__).parents[1]
PACKAGES = ("flows", "tasks", "copytrace", "models", "configs")


def test_modules_import_each_other_in_no_circle() -> None:
    graph = grimp.build_graph(*PACKAGES, cache_dir=None)  # with the imports inside functions and for types alone
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    TopologicalSorter(imports).prepare()  # raises CycleError, which names the circle


def imported_by(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield from (f"{node.module}.{name.name}" for name in node.names)


def test_mypy_skips_nothing_that_our_code_imports() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["mypy"]
    skipped = [
        module.removesuffix("*")
        for override in settings["overrides"]
        if override.get("follow_imports") == "skip"
        for module in override["module"]
    ]
    assert skipped
    imported = {
        name
        for package in settings["packages"]
        for file in (ROOT / package).rglob("*.py")
        for name in imported_by(file)
    }
    assert [name for name in sorted(imported) if f"{name}.".startswith(tuple(skipped))] == []
