import shutil
import subprocess
from html.parser import HTMLParser

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Page(HTMLParser):
    """What a page holds: every start tag with its attributes, and all text outside scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._raw = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._raw = tag in {"script", "style"}

    def handle_endtag(self, tag: str) -> None:
        self._raw = False

    def handle_data(self, data: str) -> None:
        if not self._raw:
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def cards(self, *, shown: bool = False) -> list[tuple[str | None, str | None]]:
        cards = [card for card in self.all("article") if not (shown and "hidden" in card)]
        return [(card["data-query"], card["data-reference"]) for card in cards]


@pytest.fixture
def parse():
    """Parse the text of a page."""
    return Page


@pytest.fixture
def browse(tmp_path):
    """Open a page in Chromium and return its document as it stands once its scripts have run."""
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine to open the page in")

    def dump(page, fragment=""):
        quiet = ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"]
        command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", *quiet]
        command += [f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=20000", "--window-size=1400,1000"]
        # Pictures are loaded once a frame has shown that they are near, so a frame must not be passed over.
        command += ["--run-all-compositor-stages-before-draw"]
        command += ["--dump-dom", f"{page.as_uri()}#{fragment}"]
        return Page(subprocess.run(command, capture_output=True, text=True, timeout=500, check=True).stdout)

    return dump
