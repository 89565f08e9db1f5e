"""The server around the page. The browser is told to ask nobody else for anything."""

from __future__ import annotations

import os
import socket
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atgnn.app.page import build, gradio
from atgnn.app.reviewing import Review
from atgnn.app.script import head
from atgnn.app.settings import AppSettings
from atgnn.app.style import FONTS, STYLE
from atgnn.errors import ConfigError
from atgnn.tagger import Tagger

__all__ = ["Served", "serve"]

#: Gradio's own scripts are inline, and compile their templates; nothing comes from elsewhere.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; media-src 'self' data: blob:; "
    "font-src 'self' data:; connect-src 'self' data: blob:; worker-src 'self' blob:; "
    "frame-src 'self'; base-uri 'self'; form-action 'self'; frame-ancestors 'self'"
)
HEADERS = (
    (b"content-security-policy", POLICY.encode()),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
)

#: No tunnel, no pages beside this one, no details of our mistakes, nothing printed.
QUIETLY = {
    "share": False,
    "quiet": True,
    "show_error": False,
    "prevent_thread_lock": True,
    "enable_monitoring": False,
    "ssr_mode": False,
    "mcp_server": False,
    "pwa": False,
    "footer_links": [],
}


@dataclass
class Served:
    """A page that is being served, at `url`, until `close`."""

    url: str
    page: Any
    _ends: ExitStack

    def wait(self) -> None:
        """Until Ctrl-C."""
        while self.page.is_running:
            time.sleep(0.2)

    def close(self) -> None:
        """End the server, and delete what visitors sent."""
        self.page.close(verbose=False)
        self._ends.close()

    def __enter__(self) -> Served:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def serve(
    tagger: Tagger,
    settings: AppSettings | None = None,
    *,
    review: Review | None = None,
    browser: bool = False,
) -> Served:
    """Serve the page from a thread of its own, with a `review` if one is given.

    `browser` opens it.

    Raises:
        ConfigError: the address or port cannot be had.
        MissingExtraError: the extra `app` is not installed.
    """
    settings = settings or AppSettings()
    gr = gradio()
    _check_address(settings.host, settings.port)
    with ExitStack() as ends:
        scratch = ends.enter_context(
            tempfile.TemporaryDirectory(prefix="atgnn-app-", ignore_cleanup_errors=True)
        )
        ends.enter_context(_uploads_in(Path(scratch) / "sent"))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about options that Gradio will rename
                page = build(tagger, settings, Path(scratch), review)
                _, url, _ = page.launch(
                    server_name=f"[{settings.host}]" if ":" in settings.host else settings.host,
                    server_port=settings.port,
                    inbrowser=browser,
                    max_file_size=round(settings.most_mb * 1e6),
                    allowed_paths=[scratch],
                    theme=gr.themes.Base(font=FONTS, font_mono=["ui-monospace", "monospace"]),
                    css=STYLE,
                    head=head(settings),
                    app_kwargs={
                        "middleware": _middleware(settings),
                        "docs_url": None,
                        "redoc_url": None,
                    },
                    **QUIETLY,
                )
        except OSError as error:
            # Then follows advice about calls that nobody made.
            why = str(error).partition(". ")[0]
            raise _not_there(settings.host, settings.port, why) from None
        return Served(url, page, ends.pop_all())


def _check_address(host: str, port: int | None) -> None:
    """ConfigError where this machine has no such address, or the port is taken.

    Gradio would wait for ever for a server that could not begin.
    """
    try:
        family, kind, _, _, place = socket.getaddrinfo(host, port or 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does
            probe.bind(place)
    except (OSError, UnicodeError) as error:
        raise _not_there(host, port, getattr(error, "strerror", None) or str(error)) from None


def _not_there(host: str, port: int | None, why: str) -> ConfigError:
    where = "a port from 7860 on" if port is None else f"port {port}"
    return ConfigError(
        f"{host}, {where}: cannot be served there ({why}); give another --host or --port"
    )


@contextmanager
def _uploads_in(folder: Path) -> Iterator[None]:
    """Gradio reads from the environment, at any time, where to put what is sent."""
    before = os.environ.get("GRADIO_TEMP_DIR")
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ["GRADIO_TEMP_DIR"]
        else:
            os.environ["GRADIO_TEMP_DIR"] = before


def _middleware(settings: AppSettings) -> list[Any]:
    from starlette.middleware import Middleware

    asked_for = [] if settings.hosts is None else [Middleware(_Hosts, names=settings.hosts)]
    return [Middleware(_Headers), *asked_for]


class _Headers:
    """Adds `HEADERS` to every answer."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def sent(message: Any) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], *HEADERS]}
            await send(message)

        await self.app(scope, receive, sent if scope["type"] == "http" else send)


class _Hosts:
    """Answers nobody who asks for the page by another name than `names`."""

    def __init__(self, app: Any, names: frozenset[str]) -> None:
        self.app, self.names = app, names

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] not in ("http", "websocket") or _host(scope) in self.names:
            await self.app(scope, receive, send)
            return
        from starlette.responses import PlainTextResponse

        refusal = PlainTextResponse(
            "this page answers to the names it was told of: whoever serves it can add this one "
            "with atgnn app --allow-host NAME\n",
            status_code=421,
        )
        await refusal(scope, receive, send)


def _host(scope: Any) -> str:
    """What a request calls this server, in lower case, without the port and an IPv6's brackets."""
    for name, value in scope["headers"]:
        if name == b"host":
            host = str(value, "latin-1").lower()
            return host[1:].partition("]")[0] if host[:1] == "[" else host.partition(":")[0]
    return ""
