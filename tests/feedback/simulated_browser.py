"""A rater who answers over HTTP, without a picture. No test is here."""

import http.client
import json
import time


class Rater:
    """A browser without a picture: keeps cookies, and sends an answer until it is taken.

    `answer` gives the answer to clips by their receipts, which are the same for the same content.
    `end` is the time of the monotonic clock at which the rater gives up.
    """

    def __init__(self, name, port, token, answer, end):
        self.name, self.port, self.token = name, port, token
        self.answer, self.end = answer, end
        self.cookies, self.taken, self.connection = {}, {}, None
        self.receipt, self.receipts = None, {}
        self.seconds = []  # of each request that was answered

    def ask(self, method, path, body=None, kind="application/json"):
        while time.monotonic() < self.end:
            try:
                return self._ask(method, path, body, kind)
            except (OSError, http.client.HTTPException):
                self.connection = None  # the server is gone: again, until it is back
                time.sleep(0.1)
        raise TimeoutError(self.name)

    def _ask(self, method, path, body, kind):
        self.connection = self.connection or http.client.HTTPConnection("127.0.0.1", self.port, 30)
        host = f"127.0.0.1:{self.port}"
        headers = {"cookie": "; ".join(f"{k}={v}" for k, v in self.cookies.items())}
        headers |= {"origin": f"http://{host}", "content-type": kind}
        begun = time.monotonic()
        self.connection.request(method, path, body, headers)
        answer = self.connection.getresponse()
        text = answer.read()
        self.receipt = answer.headers.get("x-receipt")
        self.seconds.append(time.monotonic() - begun)
        for line in answer.headers.get_all("set-cookie") or []:
            name, _, value = line.partition(";")[0].partition("=")
            self.cookies[name] = value
        assert answer.status in (200, 303, 404), (answer.status, text[:200])
        return text

    def run(self):
        self.ask("GET", f"/?token={self.token}")
        self.ask("POST", "/name", f"name={self.name}", "application/x-www-form-urlencoded")
        state = json.loads(self.ask("GET", "/api/state"))
        while state["tasks"]:
            task = state["tasks"][0]["task"]
            receipts = [self._receipt(clip) for clip in state["tasks"][0]["clips"]]
            if None in receipts:  # a restarted server has other names of clips
                state = json.loads(self.ask("GET", "/api/state"))
                continue
            given = self.answer(receipts)
            sent = {"task": task, "given": given, "seconds": 2.0, "receipts": receipts}
            state = json.loads(self.ask("POST", "/api/answer", json.dumps(sent)))
            self.taken[task] = given

    def _receipt(self, clip):
        """The receipt of a clip, whose frames are loaded once, as a browser does."""
        if clip not in self.receipts:
            self.ask("GET", f"/clips/{clip}")
            if self.receipt is None:
                return None
            self.receipts[clip] = self.receipt
        return self.receipts[clip]
