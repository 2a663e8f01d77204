"""A page in a real browser without a window: Debian's chromium, driven by selenium. Tests skip where there is none.

with open_browser() as browser:
    browser.open(path)
    assert not browser.complaints()
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

DESKTOP, PHONE = (1280, 900), (390, 844)  # CSS pixels
# A page may load what lies in it; chrome:// is the browser's own first page.
OWN = ("file:", "data:", "blob:", "chrome:", "about:")


class Browser:
    """Opens pages and tells what they did; `driver` is selenium's."""

    def __init__(self, driver):
        self.driver = driver

    def open(self, path: Path, *, size: tuple[int, int] = DESKTOP) -> None:
        """A local page, at `size` in CSS pixels (as a phone or a desktop reports it)."""
        self.resize(size)
        self.complaints()
        self.driver.get(path.resolve().as_uri())

    def resize(self, size: tuple[int, int]) -> None:
        width, height = size
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def emulate(self, media: str = "", scheme: str = "light") -> None:
        """As on paper (media: print) or on a screen, under the system's setting for light or dark."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": features})

    @contextmanager
    def on_paper(self, scheme: str = "light") -> Iterator[None]:
        """While the page is printed, and after it on a screen; `scheme` is the system's setting."""
        self.emulate("print", scheme)
        self.run("window.dispatchEvent(new Event('beforeprint'))")
        try:
            yield
        finally:
            self.emulate(scheme=scheme)
            self.run("window.dispatchEvent(new Event('afterprint'))")

    def run(self, script: str, *arguments: Any) -> Any:
        """What a piece of JavaScript returns."""
        return self.driver.execute_script(script, *arguments)

    def find(self, selector: str) -> list:
        """The elements that a CSS selector finds."""
        return self.driver.find_elements("css selector", selector)

    def click(self, selector: str) -> None:
        """Clicks the first element that a CSS selector finds, wherever it stands on the page."""
        self.run("document.querySelector(arguments[0]).click()", selector)

    def wait(self, script: str, seconds: float = 20) -> None:
        """Until a piece of JavaScript returns something true."""
        from selenium.webdriver.support.ui import WebDriverWait

        WebDriverWait(self.driver, seconds, 0.05).until(lambda _: self.run(script))

    def complaints(self) -> list[str]:
        """Since the last call: errors and warnings of the console, and requests for what lies outside the page."""
        said = [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        asked = [
            event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"
        ]
        return said + [f"request: {url}" for url in asked if not url.startswith(OWN)]

    def screenshot(self, path: Path, *, whole: bool = True) -> None:
        """A PNG of the page: the whole of it, or what the window shows."""
        import base64

        options = {"format": "png", "captureBeyondViewport": whole}
        if whole:
            size = self.driver.execute_cdp_cmd("Page.getLayoutMetrics", {})["cssContentSize"]
            options["clip"] = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        path.write_bytes(base64.b64decode(self.driver.execute_cdp_cmd("Page.captureScreenshot", options)["data"]))


@contextmanager
def open_browser() -> Iterator[Browser]:
    """A fresh chromium with an empty profile; skips the test where chromium, its driver or selenium is missing."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is missing: pip install selenium")
    binary, driver = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
    if not binary or not driver:
        pytest.skip("chromium or its driver is missing: apt-get install chromium chromium-driver")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options = webdriver.ChromeOptions()
        options.binary_location = binary
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        for flag in (
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--disable-dev-shm-usage",
            "--hide-scrollbars",
            f"--user-data-dir={profile}",
        ):
            options.add_argument(flag)
        session = webdriver.Chrome(options, webdriver.ChromeService(driver))
        try:
            yield Browser(session)
        finally:
            session.quit()
