"""What a script shows while it runs."""

import logging
from collections.abc import Iterator

import pytest

from hf_layerfusion.experiments.script import set_up_logging


@pytest.fixture(autouse=True)
def _levels_as_before() -> Iterator[None]:
    package = logging.getLogger("hf_layerfusion")
    before = package.level
    yield
    package.setLevel(before)


@pytest.mark.parametrize(("rank", "tells"), [(None, True), ("0", True), ("1", False)])
def test_of_several_processes_the_main_one_tells_of_its_work(
    monkeypatch: pytest.MonkeyPatch, rank: str | None, tells: bool
) -> None:
    if rank is None:
        monkeypatch.delenv("RANK", raising=False)
    else:
        monkeypatch.setenv("RANK", rank)
    set_up_logging()
    logger = logging.getLogger("hf_layerfusion.experiments.run")
    assert logger.isEnabledFor(logging.INFO) == tells
    assert logger.isEnabledFor(logging.WARNING)
