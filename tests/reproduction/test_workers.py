"""Tests of the devices of `--jobs` processes."""

import os
import subprocess
import sys

import pytest

from reproduction import workers
from reproduction.workers import DEVICES, visible_devices, worker_pool

WAIT = "import os, sys, time\nwhile not os.path.exists(sys.argv[1]): time.sleep(0.05)\n"
TELL = f"import os; print(os.environ.get({DEVICES!r}))"


def test_each_job_sees_one_device(tmp_path):
    """The first worker is busy until the second one answers, so that both are asked."""
    file = str(tmp_path / "done")
    with worker_pool(2, ["3", "GPU-5"]) as pool:
        first = pool.submit(subprocess.check_output, [sys.executable, "-c", WAIT + TELL, file], text=True)
        second = pool.submit(
            subprocess.check_output, [sys.executable, "-c", f"open({file!r}, 'w'); {TELL}"], text=True
        )
        assert {first.result().strip(), second.result().strip()} == {"3", "GPU-5"}


def test_without_devices_a_job_sees_what_its_parent_does(monkeypatch):
    monkeypatch.setenv(DEVICES, "7")
    monkeypatch.setattr("torch.set_num_threads", lambda _: None)
    workers._start(1, None)
    assert os.environ[DEVICES] == "7"


@pytest.mark.parametrize(("named", "found"), [("0,2", ["0", "2"]), ("GPU-a", ["GPU-a"]), ("", [])])
def test_devices_are_those_that_are_visible(monkeypatch, named, found):
    monkeypatch.setenv(DEVICES, named)
    assert visible_devices() == found


def test_devices_are_counted_where_none_is_named(monkeypatch):
    monkeypatch.delenv(DEVICES, raising=False)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert visible_devices() == ["0", "1"]
