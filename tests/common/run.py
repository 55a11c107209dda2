"""Runs transformers' own common model tests on every model class of the package (`make test-common`).

They are not in transformers' wheel: the source distribution of the installed version is downloaded once
into `.cache/` (nothing of it is kept in the repository), and `test_modeling.py` beside this file applies them
to our classes. Ends with 1 if a test fails, or is skipped without standing in `skips.py`.
"""

import re
import subprocess
import sys
import tarfile
from collections import Counter, defaultdict
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent

# Modules that the tests import but the source distribution leaves out: they check export, generation, and
# arguments that old configurations share.
STUBS = {
    "exporters/test_export.py": "class ExportTesterMixin:\n    pass\n",
    "generation/test_utils.py": "class GenerationTesterMixin:\n    pass\n",
    "utils/test_configuration_utils.py": "config_common_kwargs = {}\n",
}


def fetch_tests(release: str, cache: Path) -> Path:
    """Fetch the tests of transformers `release` as a package `transformers_tests`, and return its parent."""
    folder = cache / f"transformers-tests-{release}"
    package = folder / "transformers_tests"
    if (package / "__init__.py").exists():
        return folder
    package.mkdir(parents=True, exist_ok=True)
    download = [sys.executable, "-m", "pip", "download", "--quiet", "--dest", str(folder), "--no-deps"]
    options = ["--no-binary", "transformers", "--no-build-isolation", f"transformers=={release}"]
    subprocess.run(download + options, check=True)
    with tarfile.open(folder / f"transformers-{release}.tar.gz") as archive:
        for member in archive.getmembers():
            parts = Path(member.name).parts
            if len(parts) == 3 and parts[1] == "tests" and member.name.endswith(".py"):
                (package / parts[2]).write_bytes(archive.extractfile(member).read())
    for name, text in STUBS.items():
        path = package / name
        path.parent.mkdir(exist_ok=True)
        (path.parent / "__init__.py").touch()
        path.write_text(text, encoding="utf-8")
    (package / "__init__.py").touch()
    return folder


class Recorder:
    """A pytest plugin that counts outcomes by test class and keeps the reasons of skips."""

    def __init__(self) -> None:
        self.outcomes: dict[str, Counter[str]] = defaultdict(Counter)
        self.skips: dict[tuple[str, str], str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        _, test_class, name = report.nodeid.split("::")
        if report.skipped:
            self.skips[test_class, name] = str(report.longrepr[2])
        whole_test = report.when == "call" and not isinstance(report, pytest.SubtestReport)
        if report.failed or report.skipped or whole_test:
            self.outcomes[test_class][report.outcome] += 1


def is_listed(name: str, listed: Iterable[str]) -> bool:
    """Whether test `name` stands in `listed`, as itself or as a case that `parameterized` has numbered."""
    return any(re.fullmatch(rf"{re.escape(entry)}(_\d+(_\w+)?)?", name) for entry in listed)


def main() -> int:
    """Fetch, run, report; the exit code."""
    release = version("transformers")
    sys.path[:0] = [str(fetch_tests(release, ROOT / ".cache")), str(ROOT)]
    from tests.common.skips import SKIPS

    recorder = Recorder()
    # The markers are transformers', so ours are not insisted on; what its tests warn of is not our concern.
    options = [
        "--override-ini=addopts=--import-mode=importlib",
        "--disable-warnings",
        "--quiet",
        "--tb=short",
    ]
    code = int(pytest.main([str(HERE), f"--rootdir={ROOT}", *options, *sys.argv[1:]], plugins=[recorder]))

    unlisted = {key: why for key, why in recorder.skips.items() if not is_listed(key[1], SKIPS)}
    print(f"\ntransformers {release}, its common model tests:")
    for test_class, counts in sorted(recorder.outcomes.items()):
        name = test_class.removesuffix("Test")
        print(f"  {name}: {counts['passed']} passed, {counts['failed']} failed, {counts['skipped']} skipped")
    for (test_class, name), why in sorted(unlisted.items()):
        print(f"  skipped, but not in tests/common/skips.py: {test_class}::{name}: {why}")
    return code or int(bool(unlisted)) or int(not recorder.outcomes)


if __name__ == "__main__":
    sys.exit(main())
