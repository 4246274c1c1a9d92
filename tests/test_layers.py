"""Layers: imports go one way, the command line opens fast, every module says what it owns."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import ds2c_cli

PACKAGE = Path(__file__).parents[1] / "ds2c_cli"

# Bottom to top. A module imports from its own folder, or from a folder or file of a lower level; a new one is given a
# level here.
LAYERS = (
    ("version", "choices", "schema", "progress", "errors"),
    ("files", "settings", "expression", "device"),
    ("geometry", "cache"),
    ("records", "io"),
    ("project", "encoders"),
    ("models", "samples", "embeddings"),
    ("training",),
    ("prediction",),
    ("plotting", "exporting"),
    ("evaluation",),
    ("benchmark", "demo", "doctor"),
    ("cli", "ds2c_cli"),
    ("__main__",),
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}

# What a pure module may import from outside the standard library.
MAY_IMPORT = {
    **{name: set() for name in ("__init__", "__main__", "version", "choices", "progress", "errors")},
    **{name: {"pydantic"} for name in ("schema", "settings", "files", "records")},
    "expression": {"numpy", "scipy", "skmisc"},
    "evaluation.metrics": {"numpy"},
    "geometry": {"numpy", "scipy", "shapely"},
    "cache.store": {"numpy", "lmdb"},
    "cache.segments": {"numpy", "lmdb"},
    "cache.claims": set(),
    "cache.inventory": {"lmdb"},
    "cache.maintenance": {"numpy", "lmdb"},
    "cache.transfer": {"numpy", "h5py"},
    "cli.console": {"rich"},
}

HEAVY = {
    "anndata", "h5py", "imagecodecs", "lmdb", "matplotlib", "numpy", "pandas", "PIL", "pyarrow", "scipy", "shapely",
    "skmisc", "sklearn", "tifffile", "timm", "torch", "torchvision",
}  # fmt: skip

FILES = {".".join(path.relative_to(PACKAGE).with_suffix("").parts): path for path in sorted(PACKAGE.rglob("*.py"))}
TREES = {name: ast.parse(path.read_text()) for name, path in FILES.items()}


def layer_of(module: str) -> int:
    """The level of a module's layer, which is that of the file or folder at the top of the package; else above all."""
    top = module.split(".")[0]
    return LEVEL.get("ds2c_cli" if top == "__init__" else top, len(LAYERS))


def inner_imports(module: str) -> Iterator[str]:
    """The modules of the package that a module imports, at the top or in a function, as keys of FILES."""
    folder = module.split(".")[:-1]
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.Import):
            absolute = [name.name.split(".") for name in node.names if name.name.split(".")[0] == "ds2c_cli"]
            yield from (known([parts[1:]]) for parts in absolute)
        elif isinstance(node, ast.ImportFrom):
            named = (node.module or "").split(".") if node.module else []
            if node.level:
                base = [*folder[: len(folder) - node.level + 1], *named]
            elif named[0] == "ds2c_cli":
                base = named[1:]
            else:
                continue
            for name in node.names:
                yield known([[*base, name.name], base])


def known(candidates: list[list[str]]) -> str:
    """The first candidate that is a module or a package of ours."""
    names = [".".join(parts + end) for parts in candidates for end in ([], ["__init__"])]
    return next(name for name in names if name in FILES)


def outer_imports(tree: ast.Module, top_only: bool = False) -> set[str]:
    """The third-party packages a module imports, TYPE_CHECKING aside; with `top_only` those of its top level alone."""
    found: set[str] = set()
    queue: list[ast.AST] = list(tree.body)
    while queue:
        node = queue.pop()
        if isinstance(node, ast.Import):
            found |= {name.name.split(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            found.add(node.module.split(".")[0])
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            queue.extend(node.orelse)
        elif not (top_only and isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))):
            queue.extend(ast.iter_child_nodes(node))
    return found - set(sys.stdlib_module_names) - {"ds2c_cli"}


@pytest.mark.parametrize("module", FILES)
def test_every_module_has_a_layer(module):
    assert layer_of(module) < len(LAYERS), f"give {module} a layer in {Path(__file__).name}"


@pytest.mark.parametrize("module", FILES)
def test_a_module_imports_from_its_own_folder_or_a_lower_level(module):
    own = module.split(".")[0]
    upwards = {
        name for name in inner_imports(module) if name.split(".")[0] != own and layer_of(name) > layer_of(module)
    }
    assert not upwards, f"{module} imports from above: {', '.join(sorted(upwards))}"


@pytest.mark.parametrize("module", FILES)
def test_no_module_imports_through_the_public_api(module):
    top = len(module.split("."))  # dots that lead to the top of the package
    nodes = [node for node in ast.walk(TREES[module]) if isinstance(node, ast.ImportFrom)]
    names = {name.name for node in nodes if (node.module, node.level) == (None, top) for name in node.names}
    assert not names & set(ds2c_cli.__all__)


def test_nothing_imports_in_a_circle():
    TopologicalSorter({module: set(inner_imports(module)) - {module} for module in FILES}).prepare()


@pytest.mark.parametrize("module", MAY_IMPORT)
def test_a_pure_module_stays_pure(module):
    assert outer_imports(TREES[module]) <= MAY_IMPORT[module]


@pytest.mark.parametrize("module", [name for name in FILES if layer_of(name) < LEVEL["encoders"] and name != "device"])
def test_torch_begins_with_the_encoders(module):
    assert not outer_imports(TREES[module]) & {"torch", "torchvision", "timm"}


@pytest.mark.parametrize("module", [name for name in FILES if layer_of(name) >= LEVEL["cli"]])
def test_the_command_line_imports_heavy_libraries_in_its_functions(module):
    assert not outer_imports(TREES[module], top_only=True) & HEAVY


def test_opening_the_command_line_loads_nothing_heavy():
    code = "import sys, ds2c_cli.cli; print(*{name.split('.')[0] for name in sys.modules})"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PACKAGE.parent
    )
    assert "typer" in loaded.stdout
    assert not set(loaded.stdout.split()) & (HEAVY | {"rich"})


@pytest.mark.parametrize("module", FILES)
def test_the_first_line_of_a_module_says_what_it_owns(module):
    first = FILES[module].read_text().splitlines()[0]
    says = (ast.get_docstring(TREES[module]) or "").splitlines()
    assert says
    assert says[0] in first
    assert says[0].endswith((".", "?"))
