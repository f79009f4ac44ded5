"""The page as an ASGI application, and its server."""

import ipaddress
import os
import signal
import socket
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from pyiqa_amhp.app.limits import MB, Limits
from pyiqa_amhp.app.uploads import Uploads
from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.utils.environment import import_extra

if TYPE_CHECKING:
    from fastapi import FastAPI

FOLDER_VARIABLE = 'GRADIO_TEMP_DIR'  # folder of uploads; Gradio has no argument for it
SHUTDOWN_SECONDS = 2  # for open connections when the server ends


def import_gradio() -> ModuleType:
    """Import Gradio, which comes with the extra ``app``.

    Raises:
        AMHPError: Gradio or matplotlib is not installed, or Gradio is older than version 6.
    """
    os.environ['GRADIO_ANALYTICS_ENABLED'] = 'False'
    gradio = import_extra('gradio', 'app')
    import_extra('matplotlib', 'app')
    version = gradio.__version__
    if int(version.split('.')[0]) < 6:
        raise AMHPError(f"the page needs Gradio 6, found {version}: pip install 'pyiqa-amhp[app]'")
    return gradio


def build_app(
    metric,
    limits: Limits | None = None,
    folder: str | Path | None = None,
    weights_name: str | None = None,
    root_path: str | None = None,
) -> 'FastAPI':
    """Build the page and its API, for ``uvicorn.run`` or another ASGI server.

    Args:
        metric: what ``pyiqa.create_metric('amhp', ...)`` returned, or an ``AMHP``.
        limits: limits of the page; None: the defaults.
        folder: folder of uploads, which are deleted when sessions end. Gradio uses it in the
            whole process. None: Gradio's default.
        weights_name: name of the weights on the page; None: the name of their file.
        root_path: path of the page behind a proxy, such as ``/amhp``.

    Raises:
        AMHPError: Gradio is missing, or the metric is not an AMHP.
    """
    gradio = import_gradio()
    if folder is not None:
        os.environ[FOLDER_VARIABLE] = str(folder)
    from fastapi import FastAPI
    from gradio.utils import get_upload_folder

    from pyiqa_amhp.app import layout, render
    from pyiqa_amhp.app.guard import Guard
    from pyiqa_amhp.app.photos import PhotoScorer

    limits = limits or Limits()
    scorer, uploads = PhotoScorer(metric, limits), Uploads(get_upload_folder())
    notice = render.weights_notice(scorer, weights_name)
    blocks = layout.build_blocks(layout.Page(scorer, uploads), notice)
    app = FastAPI(openapi_url=None)
    app.add_middleware(Guard, limits=limits, uploads=uploads)
    return gradio.mount_gradio_app(
        app,
        blocks,
        path='/',
        root_path=root_path,
        max_file_size=limits.file_mb * MB,
        show_error=False,
        footer_links=['api'],
        run_history=False,
        enable_monitoring=False,
        mcp_server=False,
        ssr_mode=False,
        pwa=False,
        theme=layout.theme(),
        head=render.head(),
    )


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach a server on ``host``."""
    try:
        return ipaddress.ip_address(host.strip('[]')).is_loopback
    except ValueError:
        return host == 'localhost'


def listen(host: str, port: int) -> socket.socket:
    """Open a listening socket.

    Args:
        host: an address or name of this machine.
        port: a port; 0: any free port.

    Raises:
        AMHPError: the host is unknown, or the port is in use or not allowed.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host.strip('[]'), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        return socket.create_server(address[:2], family=family)
    except (OSError, OverflowError) as error:
        raise AMHPError(
            f'cannot listen on {host}, port {port} ({error}): is it in use? Give another --port'
        ) from error


def serve(app, listening: socket.socket) -> None:
    """Serve an ASGI application until Ctrl-C or SIGTERM; then close open connections."""
    import uvicorn

    config = uvicorn.Config(app, log_level='critical', timeout_graceful_shutdown=SHUTDOWN_SECONDS)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        uvicorn.Server(config).run(sockets=[listening])
    except KeyboardInterrupt:
        pass
    finally:
        signal.signal(signal.SIGTERM, before)
