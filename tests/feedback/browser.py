"""Drives Chromium by its debugging protocol: pages, keys, touches, pictures. No test is here."""

import base64
import contextlib
import itertools
import json
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from urllib.request import Request, urlopen

CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
WAIT = 60.0  # seconds for a condition of a page, on a busy machine
FLAGS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--remote-debugging-port=0",
    "--remote-allow-origins=*",
]
KEYS = {
    " ": ("Space", 32),
    "Enter": ("Enter", 13),
    "ArrowLeft": ("ArrowLeft", 37),
    "ArrowRight": ("ArrowRight", 39),
    "Delete": ("Delete", 46),
    "Tab": ("Tab", 9),
    "Escape": ("Escape", 27),
}


@contextlib.contextmanager
def chromium():
    """A browser of its own profile; gives the address of its debugging protocol."""
    home = Path(tempfile.mkdtemp(prefix="chromium-"))
    process = subprocess.Popen(
        [CHROMIUM, *FLAGS, f"--user-data-dir={home}", "about:blank"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield f"http://127.0.0.1:{_port(home / 'DevToolsActivePort', process)}"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, 15)
        process.wait(20)
        shutil.rmtree(home, ignore_errors=True)


def _port(file, process):
    end = time.monotonic() + WAIT
    while time.monotonic() < end and process.poll() is None:
        if file.is_file() and file.read_text().strip():
            return int(file.read_text().split()[0])
        time.sleep(0.05)
    raise RuntimeError("Chromium did not open its debugging port")


class Tab:
    """A page of a browser: of a width, with a mouse or with touch."""

    def __init__(self, browser, width=1280, height=900, touch=False):
        from websockets.sync.client import connect

        made = urlopen(Request(f"{browser}/json/new?about:blank", method="PUT"))
        address = json.load(made)["webSocketDebuggerUrl"]
        self.socket = connect(address, max_size=None).__enter__()  # closed with the browser
        self.numbers = itertools.count(1)
        self.events = []
        self.call("Page.enable")
        self.call("Runtime.enable")
        self.call("Log.enable")
        size = {"width": width, "height": height, "deviceScaleFactor": 2 if touch else 1}
        self.call("Emulation.setDeviceMetricsOverride", **size, mobile=touch)
        if touch:
            self.call("Emulation.setTouchEmulationEnabled", enabled=True)

    def call(self, method, **values):
        number = next(self.numbers)
        self.socket.send(json.dumps({"id": number, "method": method, "params": values}))
        while True:
            message = json.loads(self.socket.recv(WAIT))
            if message.get("id") == number:
                assert "error" not in message, message
                return message["result"]
            self.events.append(message)

    def js(self, text):
        found = self.call(
            "Runtime.evaluate", expression=text, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def until(self, text, seconds=WAIT):
        """Wait until an expression is true."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            with contextlib.suppress(AssertionError):  # the page is just being replaced
                if self.js(f"Boolean({text})"):
                    return
            time.sleep(0.05)
        raise AssertionError(
            f"{text} did not become true; the page: {self.js('document.body.innerText')}"
        )

    def open(self, address):
        self.call("Page.navigate", url=address)
        self.until("document.readyState == 'complete' && location.protocol != 'about:'")

    def press(self, key, shift=False):
        code, number = KEYS.get(key, (f"Key{key.upper()}", ord(key.upper()[0])))
        values = {"key": key, "code": code, "windowsVirtualKeyCode": number, "modifiers": 8 * shift}
        text = (
            {"text": "\r" if key == "Enter" else key}
            if key in ("Enter", " ") or len(key) == 1
            else {}
        )
        self.call("Input.dispatchKeyEvent", type="keyDown", **values, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", **values)

    def box(self, selector):
        """The place and the size of an element, scrolled into view.

        Touches go to what was painted last, so two frames are painted before.
        """
        element = f"document.querySelector({selector!r})"
        self.js(f"{element}.scrollIntoView({{block: 'center'}})")
        self.js("new Promise(r => requestAnimationFrame(() => requestAnimationFrame(() => r(1))))")
        return self.js(f"(b => [b.x, b.y, b.width, b.height])({element}.getBoundingClientRect())")

    def tap(self, selector):
        x, y, width, height = self.box(selector)
        point = [{"x": x + width / 2, "y": y + height / 2}]
        self.call("Input.dispatchTouchEvent", type="touchStart", touchPoints=point)
        self.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])

    def tap_until(self, selector, condition):
        """Tap an element until a condition is true: on a busy machine Chromium takes a slow tap
        for a long press, which presses no button."""
        for _ in range(10):
            self.tap(selector)
            with contextlib.suppress(AssertionError):
                return self.until(condition, 3.0)
        raise AssertionError(f"taps on {selector} do not make {condition} true")

    def drag(self, selector, begin, end, touch=False):
        """Drag over an element, from one fraction of its width to another."""
        x, y, width, height = self.box(selector)
        points = [(x + width * (begin + (end - begin) * i / 4), y + height / 2) for i in range(5)]
        if touch:
            for i, (at_x, at_y) in enumerate(points):
                kind = "touchMove" if i else "touchStart"
                point = [{"x": at_x, "y": at_y}]
                self.call("Input.dispatchTouchEvent", type=kind, touchPoints=point)
            self.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
            return
        mouse = {"button": "left", "buttons": 1, "clickCount": 1}
        for i, (at_x, at_y) in enumerate(points):
            kind = "mouseMoved" if i else "mousePressed"
            self.call("Input.dispatchMouseEvent", type=kind, x=at_x, y=at_y, **mouse)
        at_x, at_y = points[-1]
        self.call("Input.dispatchMouseEvent", type="mouseReleased", x=at_x, y=at_y, **mouse)

    def picture(self, file, whole=False):
        found = self.call("Page.captureScreenshot", captureBeyondViewport=whole)
        Path(file).write_bytes(base64.b64decode(found["data"]))

    def complaints(self):
        """What the browser wrote to its console as errors: scripts that fail, refused sources."""
        entries = [e["params"]["entry"] for e in self.events if e["method"] == "Log.entryAdded"]
        failed = [e for e in self.events if e["method"] == "Runtime.exceptionThrown"]
        return [e for e in entries if e["level"] == "error"] + failed
