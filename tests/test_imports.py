from graphlib import TopologicalSorter

import grimp

PACKAGES = ("flows", "tasks", "copytrace", "models", "configs")


def test_modules_import_each_other_in_no_circle() -> None:
    graph = grimp.build_graph(*PACKAGES, cache_dir=None)  # with the imports inside functions and for types alone
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    TopologicalSorter(imports).prepare()  # raises CycleError, which names the circle
