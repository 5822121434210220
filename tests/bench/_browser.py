"""Debian's chromium over its debugging pipe: opens a page, asks it questions, takes
pictures."""

import base64
import json
import os
import select
import shutil
import subprocess
import time

import pytest

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-sync",
    "--disable-component-update",
    "--disable-background-networking",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)


class Browser:
    """A headless chromium with a new profile; `with Browser(folder) as browser: page =
    browser.open(path, 1280)`."""

    def __init__(self, folder):
        self.binary = shutil.which("chromium")
        if self.binary is None:
            pytest.skip("needs chromium on PATH: apt-get install -y chromium")
        self.folder, self.count, self.events, self.rest = folder, 0, [], b""

    def __enter__(self):
        (theirs_in, self.out), (self.back, theirs_out) = os.pipe(), os.pipe()
        command = [self.binary, *FLAGS, f"--user-data-dir={self.folder}", "about:blank"]
        self.process = subprocess.Popen(
            ["bash", "-c", f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}', "bash", *command],
            pass_fds=(theirs_in, theirs_out),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(20)
        os.close(self.out)
        os.close(self.back)

    def send(self, method, session=None, **params):
        """The result of a command."""
        self.count += 1
        message = {"id": self.count, "method": method, "params": params} | (
            {"sessionId": session} if session else {}
        )
        told = json.dumps(message).encode() + b"\0"
        while told:
            told = told[os.write(self.out, told) :]
        while True:
            answer = self._next(60)
            if answer.get("id") == self.count:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)

    def wait(self, method, seconds=60):
        """Until an event has come."""
        while not any(event.get("method") == method for event in self.events):
            self.events.append(self._next(seconds))

    def _next(self, seconds):
        until = time.monotonic() + seconds
        while b"\0" not in self.rest:
            ready, _, _ = select.select([self.back], [], [], max(0.0, until - time.monotonic()))
            assert ready, f"chromium said nothing for {seconds} s"
            read = os.read(self.back, 1 << 20)
            assert read, "chromium has gone"
            self.rest += read
        first, _, self.rest = self.rest.partition(b"\0")
        return json.loads(first)

    def open(self, path, width, height=900, dark=False):
        """A page of a file at a window's width, loaded."""
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.events = []
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.send(f"{domain}.enable", session)
        self.send(
            "Emulation.setDeviceMetricsOverride",
            session,
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", session, features=[scheme])
        self.send("Page.navigate", session, url=path.resolve().as_uri())
        self.wait("Page.loadEventFired")
        return Page(self, session)


class Page:
    """An open page."""

    def __init__(self, browser, session):
        self.browser, self.session = browser, session

    def ask(self, expression):
        """The value of a JavaScript expression; promises are waited for."""
        told = self.browser.send(
            "Runtime.evaluate",
            self.session,
            expression=expression,
            returnByValue=True,
            awaitPromise=True,
            userGesture=True,
        )
        assert "exceptionDetails" not in told, told
        return told["result"].get("value")

    def until(self, expression, seconds=30):
        """Whether an expression comes true in time."""
        end = time.monotonic() + seconds
        while not (found := self.ask(expression)) and time.monotonic() < end:
            time.sleep(0.1)
        return found

    def key(self, name, code):
        """Press a key."""
        for kind in ("keyDown", "keyUp"):
            self.browser.send(
                "Input.dispatchKeyEvent",
                self.session,
                type=kind,
                key=name,
                code=name,
                windowsVirtualKeyCode=code,
                **({"text": "\r"} if name == "Enter" else {}),
            )

    def complaints(self):
        """Errors and warnings of the console, and exceptions, up to now."""
        self.ask("1")
        found = [
            event
            for event in self.browser.events
            if event["method"]
            in ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")
        ]
        return [event["params"] for event in found]

    def requests(self):
        """The addresses that it asked for, less what it holds itself."""
        asked = [
            event["params"]["request"]["url"]
            for event in self.browser.events
            if event["method"] == "Network.requestWillBeSent"
        ]
        return [url for url in asked if not url.startswith("data:")]

    def picture(self, path, height=None):
        """Save the page as a PNG."""
        size = self.browser.send("Page.getLayoutMetrics", self.session)["cssContentSize"]
        tall = min(size["height"], height or size["height"])
        clip = {"x": 0, "y": 0, "width": size["width"], "height": tall, "scale": 1}
        shot = self.browser.send(
            "Page.captureScreenshot", self.session, clip=clip, captureBeyondViewport=True
        )
        path.write_bytes(base64.b64decode(shot["data"]))
