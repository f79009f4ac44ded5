"""The command that serves the page."""

from typing import Annotated

import typer

from pyiqa_amhp.app.limits import Limits
from pyiqa_amhp.cli.options import Device, Weights, check_explains
from pyiqa_amhp.cli.output import console, escape, problems

DEFAULT = Limits()


def app(
    weights: Weights = None,
    metric: Annotated[str, typer.Option(help='amhp or another metric of that arch.')] = 'amhp',
    host: Annotated[
        str, typer.Option(help='0.0.0.0 lets other machines in; there is no password.')
    ] = '127.0.0.1',
    port: Annotated[int, typer.Option(min=0, max=65535, help='0: any free one.')] = 7860,
    root_path: Annotated[
        str | None, typer.Option(help='Where a proxy serves the page, such as /amhp.')
    ] = None,
    max_file_mb: Annotated[int, typer.Option(min=1, help='MB of a file.')] = DEFAULT.file_mb,
    max_pixels: Annotated[int, typer.Option(min=1, help='Of a photograph.')] = DEFAULT.pixels,
    max_files: Annotated[int, typer.Option(min=1, help='Photographs at once.')] = DEFAULT.files,
    max_requests: Annotated[
        int, typer.Option(min=1, help='A minute and client.')
    ] = DEFAULT.requests,
    max_disk_mb: Annotated[
        int, typer.Option(min=1, help='MB of all uploads that are held at a time.')
    ] = DEFAULT.disk_mb,
    device: Device = None,
) -> None:
    """Serve a page on which photographs are judged in a browser; Ctrl-C ends it."""
    from tempfile import TemporaryDirectory

    from pyiqa_amhp.app import server
    from pyiqa_amhp.scoring.scorer import create_metric

    server.import_gradio()
    check_explains(metric)
    limits = Limits(
        file_mb=max_file_mb,
        pixels=max_pixels,
        files=max_files,
        requests=max_requests,
        disk_mb=max_disk_mb,
    )
    with server.listen(host, port) as listening, TemporaryDirectory(prefix='amhp-app-') as folder:
        model = create_metric(metric, weights, device)
        page = server.build_app(model, limits, folder, root_path=root_path)
        _say(host, listening.getsockname()[1])
        server.serve(page, listening)
    console.print('Stopped. What was uploaded is deleted.')


def _say(host: str, port: int) -> None:
    from pyiqa_amhp.app.server import is_loopback

    shown = f'[{host}]' if ':' in host and not host.startswith('[') else host
    console.print(f'AMHP is on {escape(f"http://{shown}:{port}")} (Ctrl-C ends it)', soft_wrap=True)
    if not is_loopback(host):
        problems.print(
            '[yellow]Other machines can reach it:[/] whoever does can use it. There is no '
            'password, and nothing is encrypted; put a proxy before it that does both.',
            soft_wrap=True,
        )
