"""The page as a web application, and the server that it runs on."""

import importlib
import ipaddress
import os
import signal
import socket
from pathlib import Path

from pyiqa_amhp.app.limits import MB, Limits
from pyiqa_amhp.app.uploads import Uploads
from pyiqa_amhp.errors import AMHPError

FOLDER_VARIABLE = 'GRADIO_TEMP_DIR'  # where Gradio puts uploads; it has no argument for it
PATIENCE = 2  # seconds that open connections get when the server ends


def import_gradio():
    """Gradio, which comes with the extra ``app``.

    Raises:
        AMHPError: it is not installed, or an older one.
    """
    os.environ['GRADIO_ANALYTICS_ENABLED'] = 'False'
    install = "pip install 'pyiqa-amhp[app]'"
    try:
        gradio = importlib.import_module('gradio')
        importlib.import_module('matplotlib')
    except ModuleNotFoundError as error:
        raise AMHPError(
            f'the page needs {error.name}, which is not installed: {install}'
        ) from error
    if int(gradio.__version__.split('.')[0]) < 6:
        raise AMHPError(f'the page needs Gradio 6, found {gradio.__version__}: {install}')
    return gradio


def build_app(
    metric,
    limits: Limits | None = None,
    folder: str | Path | None = None,
    weights_name: str | None = None,
    root_path: str | None = None,
):
    """The page and its API, for ``uvicorn.run`` or any other ASGI server.

    Args:
        metric: what ``pyiqa.create_metric('amhp', ...)`` gave, or an ``AMHP``.
        limits: what is taken.
        folder: for uploads, deleted when sessions end; it is Gradio's for the whole process.
        weights_name: what the page calls the weights; None: the name of their file.
        root_path: where a proxy serves the page, such as ``/amhp``.

    Returns:
        A ``fastapi.FastAPI``.

    Raises:
        AMHPError: Gradio is missing, or another model than AMHP.
    """
    gradio = import_gradio()
    if folder is not None:
        os.environ[FOLDER_VARIABLE] = str(folder)
    from fastapi import FastAPI
    from gradio.utils import get_upload_folder

    from pyiqa_amhp.app import layout, show
    from pyiqa_amhp.app.about import describe
    from pyiqa_amhp.app.guard import Guard
    from pyiqa_amhp.app.photos import PhotoScorer

    limits = limits or Limits()
    scorer, uploads = PhotoScorer(metric, limits), Uploads(get_upload_folder())
    about = describe(scorer.scorer, weights_name)
    blocks = layout.build_blocks(layout.Page(scorer, uploads), about)
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
        head=show.head(),
    )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server on ``host``."""
    try:
        return ipaddress.ip_address(host.strip('[]')).is_loopback
    except ValueError:
        return host == 'localhost'


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 is any free one.

    Raises:
        AMHPError: no such host, or the port is taken or not allowed.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host.strip('[]'), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        return socket.create_server(address[:2], family=family)
    except (OSError, OverflowError) as error:
        raise AMHPError(
            f'cannot listen on {host}, port {port} ({error}): is it taken? Give another --port'
        ) from error


def serve(app, listening: socket.socket) -> None:
    """Serve until Ctrl-C or SIGTERM; then end what is still open, and return."""
    import uvicorn

    config = uvicorn.Config(app, log_level='critical', timeout_graceful_shutdown=PATIENCE)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        uvicorn.Server(config).run(sockets=[listening])
    except KeyboardInterrupt:
        pass
    finally:
        signal.signal(signal.SIGTERM, before)
