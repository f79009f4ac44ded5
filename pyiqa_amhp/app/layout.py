"""Layout of the page, and the functions behind it and its API."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import gradio as gr

from pyiqa_amhp.app import render
from pyiqa_amhp.app.limits import Rate
from pyiqa_amhp.app.photos import PhotoScorer
from pyiqa_amhp.app.uploads import Upload, Uploads
from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.utils.text import writable

ONE_AT_A_TIME: dict[str, Any] = {'concurrency_limit': 1, 'concurrency_id': 'model'}
FONTS = ['system-ui', '-apple-system', 'Segoe UI', 'Roboto', 'sans-serif']
CLEAN_EVERY, MAX_AGE = 60, 3600  # seconds, of uploads that no session has released
HINT_ONE = 'Choose a photograph: its score and explanation appear here.'
HINT_MANY = 'Choose photographs: they appear here, best first.'
NOT_UPLOADED = 'this is not an uploaded file: upload the file itself'

FileComponent = TypeVar('FileComponent', gr.Image, gr.File)


class Page:
    """Functions of the page and of its API.

    Args:
        scorer: the model.
        uploads: the files that sessions hold.
    """

    def __init__(self, scorer: PhotoScorer, uploads: Uploads):
        self.scorer, self.uploads = scorer, uploads
        self.rate = Rate(scorer.limits.requests)

    # Functions of the page show an error in place of the result.

    def show_one(self, photo: Upload | None, comment: str, request: gr.Request) -> tuple[str, str]:
        """Render the score of a photograph and its explanation."""
        self.uploads.hold(session_of(request), 'one', [photo])
        if photo is None:
            return render.empty(HINT_ONE), ''
        try:
            self.rate.count(client_of(request))
            explained = self.scorer.explain(photo, comment)
        except AMHPError as error:
            return render.error_box(str(error)), ''
        return render.score_panel(explained), render.explanation_panel(explained)

    def show_many(
        self,
        photos: list[Upload] | None,
        texts: Upload | None,
        request: gr.Request,
        progress=gr.Progress(),  # noqa: B008 (Gradio finds it by this default)
    ) -> str:
        """Render photographs, best first."""
        self.uploads.hold(session_of(request), 'many', [*(photos or ()), texts])
        if not photos:
            return render.empty(HINT_MANY)

        def show_progress(results: Iterable, total: int) -> Iterable:
            return progress.tqdm(results, total=total, desc='Scoring', unit='photographs')

        try:
            self.rate.count(client_of(request))
            scored = self.scorer.score_many(photos, texts, show_progress, pictures=True)
        except AMHPError as error:
            return render.error_box(str(error))
        return render.many_panel(self.scorer, scored)

    def end_session(self, request: gr.Request) -> None:
        """Delete the uploads of a session."""
        self.uploads.release(session_of(request))

    # Functions of the API (gradio_client) return data, and delete uploads at once.

    def api_score(self, photo: Upload | None, text: str, request: gr.Request) -> dict:
        """Score a photograph, with a comment if there is one."""
        return self._answer(request, [photo], lambda: self.scorer.score(photo, text))

    def api_explain(self, photo: Upload | None, text: str, request: gr.Request) -> dict:
        """Explain the score of a photograph."""
        return self._answer(request, [photo], lambda: self.scorer.explain(photo, text).to_dict())

    def api_score_many(
        self, photos: list[Upload] | None, texts: Upload | None, request: gr.Request
    ) -> list:
        """Score photographs, with the texts of a CSV if there is one."""

        def score_all() -> list[dict[str, Any]]:
            scored = self.scorer.score_many(photos, texts)
            return [{**photo.to_dict(), **self.scorer.note} for photo in scored]

        return self._answer(request, [*(photos or ()), texts], score_all)

    def _answer(
        self, request: gr.Request, uploads: list[Upload | None], compute: Callable[[], Any]
    ) -> Any:
        session = session_of(request)
        self.uploads.hold(session, 'api', uploads)
        try:
            self.rate.count(client_of(request))
            return compute()
        except AMHPError as error:
            raise gr.Error(str(error), print_exception=False) from None
        finally:
            self.uploads.hold(session, 'api', [])


def client_of(request: gr.Request) -> str:
    """Return the address of a client, whose requests are counted together."""
    return request.client.host if request.client else 'unknown'


def session_of(request: gr.Request) -> str:
    """Return the id of a session; requests without one share ``none``."""
    return request.session_hash or 'none'


def build_blocks(page: Page, notice: render.WeightsNotice) -> gr.Blocks:
    """Build the page in Gradio."""
    limits = page.scorer.limits
    with gr.Blocks(
        title='AMHP',
        fill_width=True,
        analytics_enabled=False,
        delete_cache=(CLEAN_EVERY, MAX_AGE),
    ) as blocks:
        _html(render.top(notice))
        with gr.Tab('One photograph', id='one'):
            photo, comment = _one_photograph(page)
        with gr.Tab('Many photographs', id='many'):
            photos, texts = _many_photographs(page)
        _html(render.foot(limits))
        _add_endpoint(page.api_score, [photo, comment], 'score')
        _add_endpoint(page.api_explain, [photo, comment], 'explain')
        _add_endpoint(page.api_score_many, [photos, texts], 'score_many')
        blocks.unload(page.end_session)
    return blocks.queue(max_size=limits.waiting, api_open=False)


def _one_photograph(page: Page) -> tuple[gr.Image, gr.Textbox]:
    with gr.Row(equal_height=False):
        with gr.Column(scale=5, min_width=300):
            photo = accept_uploads(
                gr.Image(
                    label='Photograph',
                    sources=['upload', 'clipboard'],
                    type='filepath',
                    height=380,
                    buttons=['fullscreen'],
                    elem_id='photo',
                ),
                page.uploads.folder,
            )
            comment = gr.Textbox(
                label='Comment (optional)',
                placeholder='soft light, strong diagonals, but the horizon is tilted',
                info=None if page.scorer.reads_text else 'This model reads no comments.',
                lines=2,
                max_length=page.scorer.limits.text,
                elem_id='comment',
            )
            button = gr.Button('Score', variant='primary', elem_id='score-one')
        with gr.Column(scale=6, min_width=300):
            score = _html(render.empty(HINT_ONE), 'score')
    explanation = _html('', 'explanation')
    gr.on(
        [photo.upload, photo.clear, comment.submit, button.click],
        page.show_one,
        [photo, comment],
        [score, explanation],
        api_visibility='private',
        show_progress_on=[score],
        **ONE_AT_A_TIME,
    )
    return photo, comment


def _many_photographs(page: Page) -> tuple[gr.File, gr.File]:
    with gr.Row(equal_height=False):
        photos = accept_uploads(
            gr.File(
                label=f'Photographs (up to {page.scorer.limits.files})',
                file_count='multiple',
                file_types=['image'],
                height=190,
                scale=3,
                min_width=280,
                elem_id='photos',
            ),
            page.uploads.folder,
        )
        texts = accept_uploads(
            gr.File(
                label='Comments: CSV with img_name, text (optional)',
                file_types=['.csv'],
                height=190,
                scale=2,
                min_width=240,
                elem_id='texts',
                visible=page.scorer.reads_text,
            ),
            page.uploads.folder,
        )
    button = gr.Button('Score all', variant='primary', elem_id='score-all')
    gallery = _html(render.empty(HINT_MANY), 'gallery')
    gr.on(
        [button.click, photos.clear],
        page.show_many,
        [photos, texts],
        [gallery],
        api_visibility='private',
        show_progress_on=[gallery],
        **ONE_AT_A_TIME,
    )
    return photos, texts


def _html(value: str, element_id: str | None = None) -> gr.HTML:
    return gr.HTML(value, elem_id=element_id, apply_default_css=False)


def _add_endpoint(function: Callable, inputs: list, name: str) -> None:
    """Add an endpoint of the API that nothing on the page triggers."""
    gr.Button(visible=False).click(
        function,
        inputs,
        gr.JSON(visible=False),
        api_name=name,
        api_description=function.__doc__,
        **ONE_AT_A_TIME,
    )


def accept_uploads(component: FileComponent, folder: Path) -> FileComponent:
    """Make a component pass uploads to functions as unopened files.

    Functions get an ``Upload``, a list of them if the component takes several files, or None.
    Gradio itself would fetch a URL that a client gives instead of a file, would open images with
    its own error messages, and would leave an empty file behind for each upload. Mounted in
    another application, it would even read any file of the server.

    The component is changed in place, since Gradio writes a file beside each subclass. It must
    not be an output of an event, because sessions would then get an unchanged copy.

    Args:
        component: a component for files.
        folder: the folder of uploads. Files outside it are refused.
    """
    move = component.async_move_resource_to_block_cache

    async def move_inside(path):
        return await move(path if path is None else _inside(path, folder))

    def to_uploads(payload: Any) -> Upload | list[Upload] | None:
        is_multiple = getattr(component, 'file_count', 'single') != 'single'
        if payload is None:
            return None
        files = payload.root if hasattr(payload, 'root') else [payload]
        uploads = [Upload(_inside(file.path, folder), _file_name(file)) for file in files]
        return uploads if is_multiple else uploads[0]

    changed: Any = component  # its type has these as methods, whether Gradio is installed or not
    changed.async_move_resource_to_block_cache = move_inside
    changed.preprocess = to_uploads
    return component


def _inside(path: str | None, folder: Path) -> str:
    """Return the path of a file in the folder of uploads, or refuse it."""
    if not path or folder.resolve() not in Path(path).resolve().parents:
        raise gr.Error(NOT_UPLOADED, print_exception=False)
    return path


def _file_name(file: Any) -> str:
    """Return the name that an upload had at its client, see ``writable``."""
    name = Path((file.orig_name or '').replace('\\', '/')).name or Path(file.path).name
    return writable(name)


def theme() -> gr.themes.Base:
    """Build the theme: system fonts, which need no download, and our colour."""
    light = ('e9f4f6', 'd3e9ed', 'a9d4dc', '78bac7', '4d9daf', '2c8091', '17697a')
    dark = ('145a69', '104955', '0c3943', '082a31')
    hue = gr.themes.Color(*(f'#{shade}' for shade in (*light, *dark)))
    return gr.themes.Default(
        primary_hue=hue,
        secondary_hue=hue,
        neutral_hue=gr.themes.colors.slate,
        radius_size=gr.themes.sizes.radius_lg,
        font=FONTS,
        font_mono=['ui-monospace', 'monospace'],
    ).set(
        button_primary_background_fill='*primary_600',
        button_primary_background_fill_hover='*primary_700',
        button_primary_background_fill_dark='*primary_500',
        button_primary_background_fill_hover_dark='*primary_600',
        button_primary_text_color='white',
    )
