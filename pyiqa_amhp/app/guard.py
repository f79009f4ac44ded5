"""Middleware in front of Gradio: limits of uploads, and security headers for the browser."""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from pyiqa_amhp.app.limits import MB, Limits
from pyiqa_amhp.app.uploads import Uploads

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]

# Gradio's page has inline scripts and styles and compiles templates, but needs no other origin.
POLICY = '; '.join(
    (
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "media-src 'self' data: blob:",
        "font-src 'self' data:",
        "connect-src 'self' data: blob:",
        "worker-src 'self' blob:",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
        "frame-ancestors 'self'",
    )
)
HEADERS = {
    b'content-security-policy': POLICY.encode(),
    b'referrer-policy': b'no-referrer',
    b'x-content-type-options': b'nosniff',
    b'cache-control': b'no-store',
}
UPLOAD = '/gradio_api/upload'


class Guard:
    """ASGI middleware that refuses uploads over the limits, and adds security headers.

    Args:
        app: the ASGI application behind it.
        limits: limits of uploads.
        uploads: the files that are stored already.
    """

    def __init__(self, app, limits: Limits, uploads: Uploads):
        self.app, self.limits, self.uploads = app, limits, uploads

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse an upload; add headers to every response."""
        if scope['type'] != 'http':
            await self.app(scope, receive, send)
            return
        is_asset = '/assets/' in scope['path'] or '/static/' in scope['path']
        skipped = {b'cache-control'} if is_asset else set()

        async def with_headers(message) -> None:
            if message['type'] == 'http.response.start':
                added = {key: value for key, value in HEADERS.items() if key not in skipped}
                kept = [pair for pair in message['headers'] if pair[0].lower() not in added]
                message = {**message, 'headers': [*kept, *added.items()]}
            await send(message)

        if scope['method'] == 'POST' and scope['path'].rstrip('/').endswith(UPLOAD):
            refusal = self._refusal(dict(scope['headers']).get(b'content-length', b''))
            if refusal:
                await _respond(with_headers, *refusal)
                return
        await self.app(scope, receive, with_headers)

    def _refusal(self, length: bytes) -> tuple[int, str] | None:
        """Return the status and the message for an upload that is refused, else None."""
        if not length.isdigit():
            return 411, 'An upload needs the header Content-Length.'
        if self.uploads.size() + int(length) > self.limits.disk_mb * MB:
            return 507, (
                f'All uploads together may take {self.limits.disk_mb} MB, and this upload would '
                'exceed that: send fewer files, or try again later.'
            )
        return None


async def _respond(send: Send, status: int, message: str) -> None:
    headers = [(b'content-type', b'text/plain; charset=utf-8')]
    await send({'type': 'http.response.start', 'status': status, 'headers': headers})
    await send({'type': 'http.response.body', 'body': message.encode()})
