"""A headless Chromium that a test looks at Airflow's UI with, by the DevTools protocol.

The installed browser is used (Debian's package ``chromium``); nothing is downloaded. What is typed and clicked goes in
as the browser's own input events, so that the page sees a person.
"""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Any

import httpx
from websockets.sync.client import ClientConnection, connect

from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CHROMIUM = shutil.which("chromium")
PATIENCE = 90.0  # seconds for a page on a busy machine
_PORT = "DevToolsActivePort"
_FOUND = """(() => {
  if (document.readyState !== "complete") return null;  // the style sheet still moves things
  const wanted = %s;
  const all = [...document.querySelectorAll(%s)].filter(e => e.checkVisibility() && !e.disabled);
  const found = all.find(e => !wanted || e.textContent.trim() === wanted);
  if (!found) return null;
  found.scrollIntoView({block: "center"});
  const box = found.getClientRects()[0];  // of a link over two lines its first
  return {x: box.x + box.width / 2, y: box.y + box.height / 2};
})()"""


@dataclass
class Page:
    """The browser's one page."""

    socket: ClientConnection
    numbers: Iterator[int] = field(default_factory=count)

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Call a method of the DevTools protocol."""
        number = next(self.numbers)
        self.socket.send(json.dumps({"id": number, "method": method, "params": params}))
        while True:
            reply = json.loads(self.socket.recv(timeout=PATIENCE))
            if reply.get("id") == number:
                assert "error" not in reply, reply
                return dict(reply["result"])

    def open(self, url: str) -> None:
        """Open an address."""
        self.call("Page.navigate", url=url)

    def evaluate(self, script: str) -> Any:
        """Return the value of a script, or what it promises."""
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        return found["result"].get("value")

    def text(self) -> str:
        """Return what a person can read on the page."""
        return str(self.evaluate("document.body ? document.body.innerText : ''"))

    def shows(self, words: str) -> None:
        """Wait until a person can read these words; the failure has what the page shows instead."""
        try:
            until(f"the page shows {words!r}", lambda: words in self.text(), PATIENCE)
        except AssertionError as missing:
            missing.add_note(f"{self.evaluate('location.href')} shows:\n{self.text()[:2000]}")
            raise

    def click(self, selector: str, words: str = "") -> None:
        """Click on the first visible element of a selector that has just these words."""
        script = _FOUND % (json.dumps(words), json.dumps(selector))
        where = until(f"{selector} {words!r} can be clicked", lambda: self.evaluate(script), PATIENCE)
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, **where, button="left", clickCount=1)

    def write(self, selector: str, words: str) -> None:
        """Type into a field."""
        self.click(selector)
        self.call("Input.insertText", text=words)

    def log_in(self, url: str, user: str, password: str) -> None:
        """Open Airflow's UI and log in."""
        self.open(url)
        self.write("input[name=username]", user)
        self.write("input[name=password]", password)
        self.click("button[type=submit]")
        self.shows("Dags")

    def screenshot(self, file: Path) -> None:
        """Keep what the page looks like, as PNG."""
        file.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))


@contextmanager
def open_browser(folder: Path, *flags: str, width: int = 1280, height: int = 800) -> Iterator[Page]:
    """Start the browser with a profile of its own in this folder and these further flags; it ends with the block."""
    assert CHROMIUM, "there is no chromium: install Debian's package chromium"
    command = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-dev-shm-usage"]
    command += ["--remote-debugging-port=0", f"--user-data-dir={folder}", f"--window-size={width},{height}", *flags]
    with (
        (folder / "log").open("wb") as log,
        subprocess.Popen([*command, "about:blank"], stdout=log, stderr=log) as browser,
    ):
        try:
            port = folder / _PORT
            until("the browser listens", lambda: port.is_file() and port.read_text().count("\n"), PATIENCE)
            pages = httpx.get(f"http://127.0.0.1:{port.read_text().splitlines()[0]}/json").json()
            address = next(page["webSocketDebuggerUrl"] for page in pages if page["type"] == "page")
            with connect(address, max_size=None) as socket:
                page = Page(socket)
                page.call("Page.enable")
                yield page
        finally:
            browser.terminate()
