"""The command ``amhp app``."""

from typing import Annotated

import typer

from pyiqa_amhp.app.limits import Limits
from pyiqa_amhp.cli.options import (
    AMHPMetric,
    ColorProfiles,
    Device,
    Weights,
    check_amhp_metric,
)  # fmt: skip
from pyiqa_amhp.cli.output import console, error_console, escape

DEFAULT = Limits()


def app(
    weights: Weights = None,
    metric: AMHPMetric = 'amhp',
    host: Annotated[
        str,
        typer.Option(help='Address to listen on; 0.0.0.0 admits other machines (no password).'),
    ] = '127.0.0.1',
    port: Annotated[
        int, typer.Option(min=0, max=65535, help='Port to listen on; 0: any free port.')
    ] = 7860,
    root_path: Annotated[
        str | None, typer.Option(help='Path of the page behind a proxy, such as /amhp.')
    ] = None,
    max_file_mb: Annotated[
        int, typer.Option(min=1, help='Largest size of a file in MB.')
    ] = DEFAULT.file_mb,
    max_pixels: Annotated[
        int, typer.Option(min=1, help='Most pixels of a photograph.')
    ] = DEFAULT.pixels,
    max_files: Annotated[
        int, typer.Option(min=1, help='Most photographs in one request.')
    ] = DEFAULT.files,
    max_requests: Annotated[
        int, typer.Option(min=1, help='Most requests of a client in a minute.')
    ] = DEFAULT.requests,
    max_disk_mb: Annotated[
        int, typer.Option(min=1, help='Largest size of all stored uploads together in MB.')
    ] = DEFAULT.disk_mb,
    color_profiles: ColorProfiles = True,
    device: Device = None,
) -> None:
    """Serve a page that scores photographs in a browser; Ctrl-C ends it."""
    from tempfile import TemporaryDirectory

    from pyiqa_amhp.app import server
    from pyiqa_amhp.scoring.scorer import create_metric

    server.import_gradio()
    check_amhp_metric(metric)
    limits = Limits(
        file_mb=max_file_mb,
        pixels=max_pixels,
        files=max_files,
        requests=max_requests,
        disk_mb=max_disk_mb,
    )
    with server.listen(host, port) as listening, TemporaryDirectory(prefix='amhp-app-') as folder:
        model = create_metric(metric, weights, device, color_profiles=color_profiles)
        page = server.build_app(model, limits, folder, root_path=root_path)
        _print_address(host, listening.getsockname()[1])
        server.serve(page, listening)
    console.print('Stopped. All uploads are deleted.')


def _print_address(host: str, port: int) -> None:
    """Print the URL of the page, and a warning if other machines can reach it."""
    from pyiqa_amhp.app.server import is_loopback

    shown = f'[{host}]' if ':' in host and not host.startswith('[') else host
    url = escape(f'http://{shown}:{port}')
    console.print(f'AMHP is on {url} (Ctrl-C ends it)', soft_wrap=True)
    if not is_loopback(host):
        error_console.print(
            '[yellow]Other machines can reach the page:[/] anyone who can connect can use it. '
            'There is no password and no encryption; put a proxy with both in front of it.',
            soft_wrap=True,
        )
