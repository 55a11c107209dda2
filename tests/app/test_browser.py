"""A demo in a real browser: type, click, read the answer. Needs Chromium, its driver and pins of `make test-app`."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from hf_layerfusion.__main__ import main
from tests.tiny import read_csv

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
SECONDS = 120


def chromium() -> str | None:
    """Return the path of Chromium or Chrome, None without."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def webdriver() -> Any:
    pytest.importorskip("gradio", reason="Gradio is not installed (the extra app)")
    found = pytest.importorskip("selenium.webdriver", reason="Selenium is not installed")
    if not chromium() or not shutil.which("chromedriver"):
        pytest.skip("Chromium or chromedriver is not installed")
    return found


@pytest.fixture(scope="module")
def browser(webdriver: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = chromium()
    downloads = tmp_path_factory.mktemp("downloads")
    for argument in ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
                     "--window-size=1200,900", f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):  # fmt: skip
        options.add_argument(argument)
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    opened = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    opened.downloads = downloads
    yield opened
    opened.quit()


def serve(arguments: list[str], place: Path, source: Path) -> Iterator[str]:
    """Start a program that serves a page, and yield the address once it answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "GRADIO_SERVER_PORT": str(port), "PYTHONPATH": str(source)}
    program = subprocess.Popen([sys.executable, *arguments], cwd=place, env=environment)
    address, end = f"http://127.0.0.1:{port}", time.monotonic() + SECONDS
    try:
        while True:
            try:
                urlopen(address).close()
                break
            except OSError:
                assert program.poll() is None and time.monotonic() < end
                time.sleep(0.5)
        yield address
    finally:
        program.terminate()
        program.wait()


@pytest.fixture(scope="module")
def page(webdriver: Any, one_task: Path) -> Iterator[str]:
    yield from serve(["-m", "hf_layerfusion", "app", str(one_task), "--use_cpu"], ROOT, ROOT / "src")


@pytest.fixture(scope="module")
def space(webdriver: Any, several_tasks: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("space") / "demo"
    main(["app", str(several_tasks), "--space", str(folder)])
    # The package in the Space's own folder, as on the Hub, where no other is installed.
    yield from serve(["app.py"], folder, folder)


def element(browser: Any, selector: str) -> Any:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(browser, SECONDS).until(
        lambda opened: next(
            (each for each in opened.find_elements(By.CSS_SELECTOR, selector) if each.is_displayed()), None
        )
    )


def wait_for(browser: Any, selector: str, words: str) -> str:
    end = time.monotonic() + SECONDS
    while words not in (text := element(browser, selector).text):
        assert time.monotonic() < end, text
        time.sleep(0.2)
    return str(text)


def type_text(browser: Any, selector: str, text: str) -> None:
    box = element(browser, f"{selector} textarea, {selector} input:not([type=file])")
    box.clear()
    box.send_keys(text)


def paste(browser: Any, selector: str, text: str) -> None:
    """Set the text of a box at once, as pasting does: typing 100,000 letters takes minutes."""
    script = (
        "const box = arguments[0];"
        "Object.getOwnPropertyDescriptor(HTMLTextAreaElement.prototype, 'value').set.call(box, arguments[1]);"
        "box.dispatchEvent(new Event('input', {bubbles: true}));"
    )
    browser.execute_script(script, element(browser, f"{selector} textarea"), text)


def test_type_click_and_read(browser: Any, page: str) -> None:
    browser.get(page)
    type_text(browser, "#text", "the food was great")
    element(browser, "#answer").click()
    shown = wait_for(browser, "#answer-view", "Layers")
    assert "good" in shown and "<b>bad</b>" in shown and shown.count("%") >= 3
    for text, message in (("", "Type a text first"), ("x" * 100_000, "at most 20,000 are read here")):
        paste(browser, "#text", text)
        element(browser, "#answer").click()
        assert "Traceback" not in wait_for(browser, "#answer-view", message)


def test_upload_and_download(browser: Any, page: str, tmp_path: Path) -> None:
    from selenium.webdriver.common.by import By

    (tmp_path / "texts.csv").write_text("review\nthe food was great\nbad\n")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\r\n")
    browser.get(page)
    element(browser, "button[role=tab]:nth-of-type(2)").click()
    for file, column, words in (
        ("picture.png", "review", "not that of a known data format"),
        ("texts.csv", "text", "no column"),
        ("texts.csv", "review", "2 rows were answered"),
    ):
        if clear := browser.find_elements(By.CSS_SELECTOR, "#file button[aria-label*=Clear]"):
            clear[0].click()
        browser.find_element(By.CSS_SELECTOR, "#file input[type=file]").send_keys(str(tmp_path / file))
        wait_for(browser, "#file", file.partition(".")[0])
        type_text(browser, "#column", column)
        element(browser, "#predict").click()
        wait_for(browser, "#message", words)
    element(browser, "#predictions a").click()
    end = time.monotonic() + SECONDS
    while not (found := [*browser.downloads.glob("*.csv")]):
        assert time.monotonic() < end
        time.sleep(0.2)
    assert [row["review"] for row in read_csv(found[0])] == ["the food was great", "bad"]


def test_a_space_answers_all_tasks(browser: Any, space: str) -> None:
    browser.get(space)
    type_text(browser, "#text", "the food was great")
    type_text(browser, "#second", "it was bad")
    element(browser, "#answer").click()
    shown = wait_for(browser, "#answer-view", "Layers")
    for title in ("mood, first text", "mood, second text", "same", "stars, first text"):
        assert title in shown
