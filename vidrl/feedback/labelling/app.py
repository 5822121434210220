"""Serve the page, its data and the frames of clips, to raters who have the token."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from collections.abc import Collection, Mapping
from dataclasses import asdict
from importlib.resources import files
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from vidrl.feedback.labelling.desk import Desk, Malformed, Refused, Task
from vidrl.feedback.labelling.frames import Vanished
from vidrl.feedback.labelling.guard import App, Guard, Scope
from vidrl.feedback.store import NameTaken
from vidrl.report.render import render

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

STATIC = {
    "label.css": "text/css",
    "label.js": "text/javascript",
    "player.js": "text/javascript",
}
NAME = re.compile(r"[\w-]{8,64}")  # of a task and of a click
LONGEST_NAME = 40  # characters of a rater's name
YEAR = 365 * 24 * 3600
NO_NAME = "Write a name of 1 to 40 characters, such as your first name."


def build(desk: Desk, token: str, hosts: Collection[str]) -> App:
    """Return the ASGI application of a desk.

    `token` is what the link must have, `hosts` are the names, with ports, under which browsers
    may reach the server.
    """
    from starlette.applications import Starlette
    from starlette.routing import Route

    page = Page(desk, token)
    routes = [
        Route("/", page.home, methods=["GET"]),
        Route("/name", page.name, methods=["POST"]),
        Route("/api/state", page.state, methods=["GET"]),
        Route("/api/answer", page.answer, methods=["POST"]),
        Route("/api/undo", page.undo, methods=["POST"]),
        Route("/clips/{name}", page.clip, methods=["GET"]),
        Route("/static/{name}", page.static, methods=["GET"]),
    ]
    handlers = dict.fromkeys((404, 405), _http_error)
    inside = Starlette(routes=routes, exception_handlers=handlers)  # type: ignore[arg-type]
    return Guard(inside, token, hosts, page.token_cookie, refusal)


class Page:
    """The answers to the page's requests. Functions that are not async run in threads."""

    def __init__(self, desk: Desk, token: str) -> None:
        self.desk, self.token = desk, token
        # Cookies belong to a host, not to a port: two servers of one host need two names.
        own = hashlib.sha256(desk.store.where.encode()).hexdigest()[:8]
        self.token_cookie, self.rater_cookie = f"vidrl_token_{own}", f"vidrl_rater_{own}"

    def home(self, request: Request) -> Response:
        """Return the page, or the question for a name, and keep the token in a cookie."""
        from starlette.responses import HTMLResponse

        rater = self._rater(request)
        answer = HTMLResponse(self._label(rater) if rater else _name_page(""))
        if request.query_params.get("token"):
            answer.set_cookie(self.token_cookie, self.token, httponly=True, samesite="strict")
        return answer

    async def name(self, request: Request) -> Response:
        """Take a rater's name; a name of another browser is refused with words."""
        from starlette.concurrency import run_in_threadpool
        from starlette.responses import HTMLResponse, RedirectResponse

        sent = parse_qs((await request.body()).decode("utf-8", "replace"))
        name = " ".join(sent.get("name", [""])[0].split())
        if not 1 <= len(name) <= LONGEST_NAME or not name.isprintable():
            return HTMLResponse(_name_page(NO_NAME, name[:LONGEST_NAME]), 400)
        secret = request.cookies.get(self.rater_cookie) or secrets.token_urlsafe(24)
        if await run_in_threadpool(self.desk.store.rater, secret) not in (None, name):
            secret = secrets.token_urlsafe(24)  # another rater goes on in this browser
        try:
            await run_in_threadpool(self.desk.store.claim, name, secret)
        except NameTaken as error:
            return HTMLResponse(_name_page(_sentence(str(error)), name), 409)
        answer = RedirectResponse("/", 303)
        answer.set_cookie(self.rater_cookie, secret, max_age=YEAR, httponly=True, samesite="strict")
        return answer

    def state(self, request: Request) -> Response:
        """Return the rater's tasks and progress as JSON."""
        rater = self._rater(request)
        return self._state(rater) if rater else _error(401, "Load the page again: it has no name.")

    async def answer(self, request: Request) -> Response:
        """Write an answer, and return the next tasks."""
        return await self._change(request, self._take)

    async def undo(self, request: Request) -> Response:
        """Revoke the newest answer, and return its clips as the first task."""
        return await self._change(request, lambda rater, sent: self._undo(rater, sent))

    def clip(self, request: Request) -> Response:
        """Return the file of frames of a clip, which is named by an opaque name."""
        from starlette.responses import FileResponse

        clip = self.desk.clip_of(request.path_params["name"])
        if clip is None:
            return _error(404, "There is no clip of this name: load the page again.")
        try:
            found = self.desk.frames.of(clip.path, clip.home)
        except Vanished:
            return _error(410, "This clip is no longer there: skip it.")
        headers = {"cache-control": "private, max-age=3600", "x-receipt": found.receipt}
        return FileResponse(found.file, media_type="application/octet-stream", headers=headers)

    def static(self, request: Request) -> Response:
        """Return one of the page's own files."""
        from starlette.responses import Response

        name = request.path_params["name"]
        if name not in STATIC:
            return _error(404, "There is no such file.")
        text = files("vidrl").joinpath("feedback/labelling/templates", name).read_text("utf-8")
        return Response(text, media_type=STATIC[name])

    # --- inside

    def _rater(self, request: Request) -> str | None:
        """Return the name that belongs to this browser, or None."""
        secret = request.cookies.get(self.rater_cookie, "")
        return self.desk.store.rater(secret) if secret else None

    def _label(self, rater: str) -> str:
        """Return the page on which clips are judged."""
        questionnaire = self.desk.questionnaire
        data = {
            "mode": questionnaire.mode,
            "axes": [asdict(axis) for axis in questionnaire.axes],
            "tags": list(questionnaire.tags),
            "rater": rater,
        }
        return render("label/label.html", mode=questionnaire.mode, rater=rater, data=data)

    async def _change(self, request: Request, change: Any) -> Response:
        """Apply a change that a rater sent as JSON; return the new state or the reason."""
        from starlette.concurrency import run_in_threadpool

        rater = await run_in_threadpool(self._rater, request)
        if rater is None:
            return _error(401, "Load the page again: it has no name.")
        try:
            await run_in_threadpool(change, rater, _parsed(await request.body()))
        except Refused as error:
            status = 400 if isinstance(error, Malformed) else 409
            return _error(status, _sentence(str(error)))
        return await run_in_threadpool(self._state, rater)

    def _take(self, rater: str, sent: Mapping[str, Any]) -> None:
        """Write the answer that a page sent."""
        given = sent.get("given")
        if not NAME.fullmatch(str(sent.get("task"))) or not isinstance(given, dict):
            raise Malformed("expected an answer with a task and what was given")
        if not given and sent.get("skip") is not True:
            raise Malformed("expected an answer to at least one question, or a skip")
        seconds, receipts = sent.get("seconds", 0.0), sent.get("receipts", [])
        self.desk.answer(rater, str(sent["task"]), given, sent.get("faults", []), seconds, receipts)

    def _undo(self, rater: str, sent: Mapping[str, Any]) -> None:
        if not NAME.fullmatch(str(sent.get("click"))):
            raise Malformed("expected the name of a click, of 8 to 64 letters, digits, - or _")
        self.desk.undo(rater, str(sent["click"]))

    def _state(self, rater: str) -> Response:
        """Return what the page shows next, and how far the rater is."""
        from starlette.responses import JSONResponse

        tasks, progress = self.desk.tasks(rater), self.desk.progress(rater)
        return JSONResponse(
            {
                "tasks": [self._task(task) for task in tasks],
                "progress": asdict(progress) | {"rest": progress.rest},
                "vanished": len(self.desk.vanished),
            }
        )

    def _task(self, task: Task) -> dict[str, Any]:
        """Return what the page may know of a task: neither paths, nor why these clips."""
        prompt = task.prompt if self.desk.questionnaire.shows_prompt else ""
        clips = [self.desk.clip_id(clip) for clip in task.shown]
        before = {"given": task.given, "marks": task.marks}
        return {"task": task.name, "clips": clips, "prompt": prompt} | before


def _parsed(body: bytes) -> dict[str, Any]:
    """Return the object that a page sent; raise Malformed for a body that is no object."""
    try:
        sent = json.loads(body)
        json.dumps(sent, ensure_ascii=False).encode()  # half of a surrogate pair is no text
    except (ValueError, RecursionError) as error:
        raise Malformed(f"expected an answer in JSON: {error}") from None
    if not isinstance(sent, dict):
        raise Malformed(f"expected an object of JSON, got {type(sent).__name__}")
    return sent


def refusal(scope: Scope, status: int, words: str) -> App:
    """Return the answer to a refused request: JSON for the page's own requests, else a page."""
    from starlette.responses import HTMLResponse

    if scope["path"].startswith(("/api", "/clips")):
        return _error(status, words)
    return HTMLResponse(render("label/refused.html", status=status, words=words), status)


async def _http_error(request: Request, error: Any) -> Any:
    words = {404: "There is no such page.", 405: "This address takes no such request: no uploads."}
    return refusal(request.scope, error.status_code, words[error.status_code])


def _error(status: int, words: str) -> Response:
    from starlette.responses import JSONResponse

    return JSONResponse({"error": words}, status)


def _name_page(wrong: str, name: str = "") -> str:
    return render("label/name.html", wrong=wrong, name=name, longest=LONGEST_NAME)


def _sentence(text: str) -> str:
    """Return a message with a capital letter and a full stop."""
    return f"{text[:1].upper()}{text[1:]}".rstrip(".") + "."
