"""What stands before Gradio: bounds on uploads, and a browser that loads from nowhere else."""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from pyiqa_amhp.app.limits import MB, Limits
from pyiqa_amhp.app.uploads import Uploads

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]

# Gradio's page has scripts and styles in it and compiles templates; it needs no other origin.
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
    """ASGI middleware.

    Args:
        app: what it stands before.
        limits: on uploads. uploads: what lies there already.
    """

    def __init__(self, app, limits: Limits, uploads: Uploads):
        self.app, self.limits, self.uploads = app, limits, uploads

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse an upload; add headers to every answer."""
        if scope['type'] != 'http':
            await self.app(scope, receive, send)
            return
        asset = '/assets/' in scope['path'] or '/static/' in scope['path']
        skipped = {b'cache-control'} if asset else set()

        async def with_headers(message) -> None:
            if message['type'] == 'http.response.start':
                ours = {key: value for key, value in HEADERS.items() if key not in skipped}
                others = [pair for pair in message['headers'] if pair[0].lower() not in ours]
                message = {**message, 'headers': [*others, *ours.items()]}
            await send(message)

        if scope['method'] == 'POST' and scope['path'].rstrip('/').endswith(UPLOAD):
            refusal = self._refused(dict(scope['headers']).get(b'content-length', b''))
            if refusal:
                await _answer(with_headers, *refusal)
                return
        await self.app(scope, receive, with_headers)

    def _refused(self, length: bytes) -> tuple[int, str] | None:
        """Status and sentence for an upload that is not taken."""
        if not length.isdigit():
            return 411, 'An upload has to say how long it is.'
        if self.uploads.size() + int(length) > self.limits.disk_mb * MB:
            return 507, (
                f'All uploads together may take {self.limits.disk_mb} MB here, and this would be '
                'more: send fewer files, or try again later.'
            )
        return None


async def _answer(send: Send, status: int, sentence: str) -> None:
    headers = [(b'content-type', b'text/plain; charset=utf-8')]
    await send({'type': 'http.response.start', 'status': status, 'headers': headers})
    await send({'type': 'http.response.body', 'body': sentence.encode()})
