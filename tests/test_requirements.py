"""Tests of the requirements: pins agree with setup.cfg and README, what is imported is required, models need little."""

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from configparser import ConfigParser
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

import pytest
import torch
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version
from transformers import AutoTokenizer

from hf_layerfusion import BertForGRUFusionClassification, BertWithPoolingModule, CerbertusForMultitask

ROOT = Path(__file__).resolve().parent.parent
EXTRAS = ("demo", "elmo", "search", "onnx")
"""Those that the tests use."""

ROW = re.compile(r"^\| (?P<package>\S+) \| (?P<lowest>\S+) \| (?P<newest>\S+) \|$", re.MULTILINE)


def requirements(text: str) -> Iterator[tuple[str, SpecifierSet]]:
    for line in text.splitlines():
        if line and not line.startswith("#"):
            requirement = Requirement(line)
            yield canonicalize_name(requirement.name), requirement.specifier


def allowed() -> dict[str, SpecifierSet]:
    """What setup.cfg allows of each package that it requires, itself or in an extra."""
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    parts = [setup["options"]["install_requires"], *map(setup["options.extras_require"].get, EXTRAS)]
    found: dict[str, SpecifierSet] = {}
    for name, specifiers in requirements("\n".join(parts)):
        found[name] = found.get(name, SpecifierSet()) & specifiers
    return found


def lowest(specifiers: SpecifierSet) -> Version:
    return max(Version(each.version) for each in specifiers if each.operator in (">=", "=="))


def pinned(file: str) -> dict[str, set[Version]]:
    """The versions that a file of requirements/ pins each package to, by the Pythons that it is for."""
    pins: dict[str, set[Version]] = {}
    for name, specifiers in requirements((ROOT / "requirements" / file).read_text(encoding="utf-8")):
        (exact,) = specifiers
        assert exact.operator == "==", f"{name}{exact}"
        pins.setdefault(name, set()).add(Version(exact.version))
    return pins


def test_lowest_pins_the_lowest_versions_that_setup_cfg_allows() -> None:
    pins = pinned("lowest.txt")
    floors = {name: {lowest(specifiers)} for name, specifiers in allowed().items() if name != "torch"}
    assert {name: pins.get(name) for name in floors} == floors


@pytest.mark.parametrize("file", ["lowest.txt", "dev.txt"])
def test_pins_are_versions_that_setup_cfg_allows(file: str) -> None:
    pins = pinned(file)
    for name, specifiers in allowed().items():
        assert all(version in specifiers for version in pins[name]), (name, specifiers, pins[name])


def test_the_table_of_tested_versions_is_that_of_the_pins() -> None:
    section = (ROOT / "README.md").read_text(encoding="utf-8").split("## Versions that were tested")[1]
    rows = {canonicalize_name(row["package"]): row for row in ROW.finditer(section.split("\n## ")[0])}
    packages = rows.keys() & allowed().keys()
    assert {"torch", "transformers", "datasets", "accelerate", "peft"} <= packages
    for name in packages:
        for file, column in (("lowest.txt", "lowest"), ("dev.txt", "newest")):
            assert Version(rows[name][column]) in pinned(file)[name], (name, column)


def imported() -> set[str]:
    """The top packages that src/ imports, but for the standard library and its own."""
    found: set[str] = set()
    for file in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.split(".")[0])
    return found - {*sys.stdlib_module_names, "hf_layerfusion"}


def test_what_is_imported_is_required() -> None:
    """Not what others happen to require: they may cease to."""
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    declared = {
        canonicalize_name(name)
        for extra in ("app", "surgery")
        for name, _ in requirements(setup["options.extras_require"][extra])
    }
    declared |= allowed().keys()
    distributions = packages_distributions()
    missing = {
        package
        for package in imported()
        if not {canonicalize_name(name) for name in distributions.get(package, [package])} & declared
    }
    assert not missing


def test_what_is_required_is_imported() -> None:
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    required = {name for name, _ in requirements(setup["options"]["install_requires"])}
    distributions = packages_distributions()
    used = {canonicalize_name(name) for package in imported() for name in distributions.get(package, ())}
    assert not required - used


def test_a_missing_extra_is_named_where_it_is_needed() -> None:
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    named = set()
    for file in (ROOT / "src").rglob("*.py"):
        named |= set(
            re.findall(r"pip install \\?\"hf_layerfusion\[(\w+)\]", file.read_text(encoding="utf-8"))
        )
    carry_no_code = {"demo", "dev", "docs", "embeddings"}
    assert named == setup["options.extras_require"].keys() - carry_no_code


# What a saved model needs

OF_MODELS = ("torch", "transformers", "huggingface_hub", "safetensors")

OPEN_AND_ASK = r"""
import json, sys
from importlib.machinery import BuiltinImporter, FrozenImporter, PathFinder

blocked, texts, folders = json.loads(sys.argv[1])

class Finder(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in blocked else PathFinder.find_spec(name, path, target)

sys.meta_path[:] = [BuiltinImporter, FrozenImporter, Finder]
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, AutoTokenizer, pipeline

def ask(**options):
    found = {}
    for folder in folders:
        batch = AutoTokenizer.from_pretrained(folder)(texts, padding=True, return_tensors="pt")
        model = AutoModelForSequenceClassification.from_pretrained(folder, **options)
        found[folder] = {
            "config": type(AutoConfig.from_pretrained(folder, **options)).__name__,
            "base": list(AutoModel.from_pretrained(folder, **options)(**batch)[0].shape),
            "logits": model(**batch).logits.tolist(),
            "labels": [answer["label"] for answer in pipeline("text-classification", folder, **options)(texts)],
        }
    return found

print("\nwithout:" + json.dumps(ask(trust_remote_code=True)))
blocked.remove("hf_layerfusion")
import hf_layerfusion
print("\nwith:" + json.dumps(ask()))
model = hf_layerfusion.CerbertusForMultitask.from_pretrained(folders[-1])
answers = hf_layerfusion.MultitaskPipeline(model, AutoTokenizer.from_pretrained(folders[-1]))(texts)
print("\ntasks:" + json.dumps([sorted(answer) for answer in answers]))
"""


def needed_by(names: tuple[str, ...]) -> set[str]:
    """The names of these distributions and of all that they require."""
    found: set[str] = set()
    waiting = [canonicalize_name(name) for name in names]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        try:
            lines = requires(name) or ()
        except PackageNotFoundError:  # for another platform
            continue
        needs = [Requirement(line) for line in lines]
        waiting += [
            canonicalize_name(need.name)
            for need in needs
            if need.marker is None or need.marker.evaluate({"extra": ""})
        ]
    return found


def test_a_saved_model_opens_and_answers_with_torch_transformers_hub_and_safetensors_alone(
    tiny_encoder_dir: str, tmp_path: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_encoder_dir)
    texts = ["what a great day", "sad"]
    labels = {0: "negative", 1: "positive"}
    models = {
        "fused": BertForGRUFusionClassification.from_pretrained(
            tiny_encoder_dir, num_groups=2, id2label=labels
        ),
        "pooled": BertWithPoolingModule.from_pretrained(
            tiny_encoder_dir, pooling="attention", id2label=labels
        ),
        "tasks": CerbertusForMultitask.from_pretrained(
            tiny_encoder_dir, num_task_layers=1, tasks={"mood": {"labels": [*labels.values()]}}
        ),
    }
    expected = {}
    for name, model in models.items():
        model.eval().save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
        logits = model(**tokenizer(texts, padding=True, return_tensors="pt")).logits
        expected[str(tmp_path / name)] = logits.detach()

    allowed = needed_by(OF_MODELS)
    blocked = [
        package
        for package, names in packages_distributions().items()
        if not {canonicalize_name(name) for name in names} & allowed
    ]
    assert {"hf_layerfusion", "datasets", "accelerate", "peft", "sklearn", "matplotlib"} <= set(blocked)
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
    environment["PYTHONPATH"] = str(ROOT / "src")
    done = subprocess.run(
        [sys.executable, "-c", OPEN_AND_ASK, json.dumps([blocked, texts, list(expected)])],
        env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = {
        kind: json.loads(re.search(f"^{kind}:(.*)$", done.stdout, re.MULTILINE)[1])
        for kind in ("without", "with", "tasks")
    }
    assert found["tasks"] == [["mood"]] * len(texts)
    for kind in ("without", "with"):
        for folder, logits in expected.items():
            answers = found[kind][folder]
            torch.testing.assert_close(torch.tensor(answers["logits"]), logits, rtol=0, atol=1e-6)
            assert answers["labels"] == [labels[int(place)] for place in logits.argmax(dim=1)]
            assert answers["base"][0] == len(texts)
            assert answers["config"] == type(models[Path(folder).name].config).__name__
