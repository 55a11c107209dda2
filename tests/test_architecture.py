"""The rules that keep the code readable: which part may import which, and what no file may hold."""

import ast
import re
import subprocess
import sys
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "hf_layerfusion"
SOURCES = sorted(PACKAGE.rglob("*.py"))

OPEN = {"errors", "metric_registry", "run_layout", "storage"}
# Who may import whom, itself and what is open to all apart (docs/architecture.md). `__init__` is the public face.
ARROWS: dict[str, set[str]] = {
    "modeling": set(),
    "data": set(),
    "regularizers": set(),
    "gradient_surgery": set(),
    "evaluation": set(),
    "hub": set(),
    "export": {"data", "hub"},
    "ensembling": {"data", "evaluation", "hub"},
    "training": {"data", "regularizers", "gradient_surgery", "evaluation", "hub"},
    "probing": {"data", "modeling", "training", "evaluation", "ensembling"},
    "embeddings": {"modeling", "hub"},
    "errors": set(),
    "metric_registry": set(),
    "run_layout": set(),
    "storage": set(),
    "text_pipeline": {"data", "modeling"},
    "multitask_pipeline": {"data", "modeling"},
    "__init__": {
        "text_pipeline",
        "multitask_pipeline",
        "modeling",
        "embeddings",
        "training",
        "ensembling",
        "hub",
        "probing",
    },
    "app": {"__init__", "data", "evaluation", "ensembling", "hub", "recipes"},
    "__main__": {"cli"},
    "cli": {
        "__init__",
        "app",
        "evaluation",
        "embeddings",
        "recipes",
        "probing",
        "ensembling",
        "data",
        "training",
        "hub",
    },
    "recipes": {
        "__init__",
        "modeling",
        "training",
        "evaluation",
        "ensembling",
        "data",
        "hub",
        "export",
        "probing",
    },
}

# What travels with a checkpoint must run where nothing but torch and transformers is installed.
MODELING_MAY_IMPORT = {"torch", "tokenizers", "transformers", "huggingface_hub", "safetensors"}


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def part(path: Path) -> str:
    """The folder of `path` inside the package, or its name if it stands at the top."""
    relative = path.relative_to(PACKAGE)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


@cache
def imported(path: Path) -> list[str]:
    """Absolute names of what `path` imports, also inside functions and by strings that name a module."""
    names: list[str] = []
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            names += (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                folder = path.relative_to(PACKAGE.parent).parent.parts
                base = ".".join((*folder[: len(folder) - node.level + 1], *base.split(".")))
            names += (f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Constant) and re.fullmatch(rf"{PACKAGE.name}(\.\w+)+", str(node.value)):
            names.append(str(node.value))
    return names


def inner(path: Path) -> set[str]:
    """The parts of the package that `path` imports."""
    names = (f"{name}.".split(".") for name in imported(path))
    return {name[1] if name[1] in ARROWS else "__init__" for name in names if name[0] == PACKAGE.name}


def test_imports_follow_the_arrows() -> None:
    wrong = {}
    for path in SOURCES:
        own = part(path)
        assert own in ARROWS, f"a new part '{own}' needs its row in ARROWS and in docs/architecture.md"
        tables = set() if own in ("modeling", "errors") else OPEN
        if found := inner(path) - ARROWS[own] - {own} - tables:
            wrong[str(path.relative_to(PACKAGE))] = found
    assert not wrong


def test_modules_that_recipes_share_import_no_recipe() -> None:
    folder = PACKAGE / "recipes"
    ways = {path.name for path in folder.iterdir() if (path / "__init__.py").exists()}
    for path in folder.glob("*.py"):
        names = [name.split(".") for name in imported(path)]
        used = {name[2] for name in names if name[:2] == [PACKAGE.name, "recipes"] and len(name) > 3}
        assert not used & ways - {"search"}, path  # before a run of one task there may be a search


def test_the_arrows_run_in_no_circle() -> None:
    TopologicalSorter(ARROWS).prepare()  # raises CycleError


def test_modules_run_in_no_circle() -> None:
    modules = {
        path: ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
        for path in SOURCES
    }
    graph: dict[str, set[str]] = {}
    for path, module in modules.items():
        # `from a.b import c` names the module a.b.c if there is one, else a name inside of a.b.
        targets = {name if name in modules.values() else name.rpartition(".")[0] for name in imported(path)}
        graph[module] = targets & set(modules.values()) - {module}
    assert any(graph.values())
    TopologicalSorter(graph).prepare()


def may_stand_in_modeling(node: ast.ImportFrom | ast.Import) -> bool:
    if isinstance(node, ast.ImportFrom) and node.level:
        return node.level == 1 and bool(node.module) and "." not in str(node.module)
    names = [str(node.module)] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
    # `__future__`: the code that copies a model's modules looks for annotations.
    return "__future__" not in names and {name.split(".")[0] for name in names} <= MODELING_MAY_IMPORT | {
        *sys.stdlib_module_names
    }


def test_modeling_is_an_island() -> None:
    """Its files are copied with a checkpoint: one flat folder, siblings by `from .name import`, no others."""
    wrong = [
        f"{path.name}: {ast.unparse(node)}"
        for path in (PACKAGE / "modeling").glob("*.py")
        for node in ast.walk(tree(path))
        if isinstance(node, ast.ImportFrom | ast.Import) and not may_stand_in_modeling(node)
    ]
    assert not wrong


def test_modeling_has_no_folders() -> None:
    assert not [
        path for path in (PACKAGE / "modeling").iterdir() if path.is_dir() and path.name != "__pycache__"
    ]


def test_evaluation_and_its_like_reach_models_through_the_auto_classes() -> None:
    for path in SOURCES:
        # A probe puts its pooling around a plain encoder, which no Auto class does; embeddings become encoders of ours.
        # The pipelines are those of the models, and encode pairs as the one that travels with such models does.
        if part(path) not in (
            "modeling",
            "probing",
            "embeddings",
            "text_pipeline",
            "multitask_pipeline",
            "__init__",
        ):
            assert "modeling" not in inner(path)


def test_nothing_in_the_package_imports_scripts_or_tests() -> None:
    for path in SOURCES:
        assert not {name.split(".")[0] for name in imported(path)} & {
            "examples",
            "benchmarks",
            "reproduction",
            "tests",
        }


def tracked_files() -> list[Path]:
    """What git keeps or would keep; where there is no git (an unpacked archive), every file."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    try:
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True).stdout.split(
            "\0"
        )
    except (FileNotFoundError, subprocess.CalledProcessError):
        return [path for path in ROOT.rglob("*") if path.is_file() and ".venv" not in path.parts]
    return [ROOT / name for name in listed if name and (ROOT / name).is_file()]


def test_no_file_names_a_folder_of_somebodys_machine() -> None:
    folders = re.compile(rb"(?<![\w.:-])/(work|root)/")
    found = [path.relative_to(ROOT) for path in tracked_files() if folders.search(path.read_bytes())]
    assert not found


def test_the_repository_stays_light() -> None:
    heavy = [path.relative_to(ROOT) for path in tracked_files() if path.stat().st_size > 1_000_000]
    assert not heavy
