"""The page: what is on it, and what happens when something is done there."""

from collections.abc import Callable
from typing import Any

import gradio as gr

from pyiqa_amhp.app import show
from pyiqa_amhp.app.about import About
from pyiqa_amhp.app.components import give_uploads
from pyiqa_amhp.app.limits import Rate
from pyiqa_amhp.app.photos import PhotoScorer
from pyiqa_amhp.app.uploads import Upload, Uploads
from pyiqa_amhp.errors import AMHPError

ONE_AT_A_TIME: dict[str, Any] = {'concurrency_limit': 1, 'concurrency_id': 'model'}
FONTS = ['system-ui', '-apple-system', 'Segoe UI', 'Roboto', 'sans-serif']
CLEAN_EVERY, KEEP_AT_MOST = 60, 3600  # seconds: of uploads that no session lets go
FIRST_ONE = 'Choose a photograph: its score and what it comes from appear here.'
FIRST_MANY = 'Choose photographs: they appear here, the best first.'


class Page:
    """What the page and its API do.

    Args:
        scorer: the model.
        uploads: the files that sessions hold.
    """

    def __init__(self, scorer: PhotoScorer, uploads: Uploads):
        self.scorer, self.uploads = scorer, uploads
        self.rate = Rate(scorer.limits.requests)

    # For the page: problems are shown where the result would be.

    def one(self, photo: Upload | None, comment: str, request: gr.Request):
        """A photograph's score, and why."""
        self.uploads.hold(session_of(request), 'one', [photo])
        if photo is None:
            return show.nothing_yet(FIRST_ONE), ''
        try:
            self.rate.count(client_of(request))
            one = self.scorer.explain(photo, comment)
        except AMHPError as error:
            return show.problem(str(error)), ''
        return show.score_panel(one), show.why_panel(one)

    def many(
        self,
        photos: list[Upload] | None,
        texts: Upload | None,
        request: gr.Request,
        progress=gr.Progress(),  # noqa: B008 (Gradio looks for it there)
    ):
        """Photographs, best first."""
        self.uploads.hold(session_of(request), 'many', [*(photos or ()), texts])
        if not photos:
            return show.nothing_yet(FIRST_MANY)
        try:
            self.rate.count(client_of(request))

            def shown(rows, total):
                return progress.tqdm(rows, total=total, desc='Judging', unit='photographs')

            scored = self.scorer.score_many(photos, texts, shown, pictures=True)
        except AMHPError as error:
            return show.problem(str(error))
        return show.many_panel(self.scorer, scored)

    def end(self, request: gr.Request) -> None:
        """Delete what a session held."""
        self.uploads.let_go(session_of(request))

    # For programs (gradio_client): the same as data, and nothing is kept.

    def api_score(self, photo: Upload | None, text: str, request: gr.Request) -> dict:
        """The score of a photograph, with what is said about it, if anything."""
        return self._answer(request, [photo], lambda: self.scorer.score(photo, text))

    def api_explain(self, photo: Upload | None, text: str, request: gr.Request) -> dict:
        """Why a photograph has its score."""
        return self._answer(request, [photo], lambda: self.scorer.explain(photo, text).to_dict())

    def api_score_many(
        self, photos: list[Upload] | None, texts: Upload | None, request: gr.Request
    ) -> list:
        """Scores of photographs, with the texts of a CSV, if there is one."""

        def scored():
            return [photo.to_dict() for photo in self.scorer.score_many(photos, texts)]

        return self._answer(request, [*(photos or ()), texts], scored)

    def _answer(self, request: gr.Request, uploads: list, ask: Callable):
        session = session_of(request)
        self.uploads.hold(session, 'api', uploads)
        try:
            self.rate.count(client_of(request))
            return ask()
        except AMHPError as error:
            raise gr.Error(str(error), print_exception=False) from None
        finally:
            self.uploads.hold(session, 'api', [])


def session_of(request: gr.Request) -> str:
    """The session that holds the uploads of a request."""
    return request.session_hash or 'none'


def client_of(request: gr.Request) -> str:
    """Whose requests are counted together."""
    return request.client.host if request.client else 'unknown'


def build_blocks(page: Page, about: About) -> gr.Blocks:
    """Lay the page out."""
    limits = page.scorer.limits
    with gr.Blocks(
        title='AMHP',
        fill_width=True,
        analytics_enabled=False,
        delete_cache=(CLEAN_EVERY, KEEP_AT_MOST),
    ) as blocks:
        _html(show.top(about))
        with gr.Tab('One photograph', id='one'):
            photo, comment = _one_photograph(page, about)
        with gr.Tab('Many photographs', id='many'):
            photos, texts = _many_photographs(page, about)
        _html(show.privacy(limits))
        _api(page.api_score, [photo, comment], 'score')
        _api(page.api_explain, [photo, comment], 'explain')
        _api(page.api_score_many, [photos, texts], 'score_many')
        blocks.unload(page.end)
    return blocks.queue(max_size=limits.waiting, api_open=False)


def _one_photograph(page: Page, about: About):
    with gr.Row(equal_height=False):
        with gr.Column(scale=5, min_width=300):
            photo = give_uploads(
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
                label='What is said about it (optional)',
                placeholder='soft light, strong diagonals, but the horizon is tilted',
                info=None if about.reads_text else 'This model reads no comments.',
                lines=2,
                max_length=page.scorer.limits.text,
                elem_id='comment',
            )
            button = gr.Button('Judge', variant='primary', elem_id='judge')
        with gr.Column(scale=6, min_width=300):
            score = _html(show.nothing_yet(FIRST_ONE), 'score')
    why = _html('', 'why')
    gr.on(
        [photo.upload, photo.clear, comment.submit, button.click],
        page.one,
        [photo, comment],
        [score, why],
        api_visibility='private',
        show_progress_on=[score],
        **ONE_AT_A_TIME,
    )
    return photo, comment


def _many_photographs(page: Page, about: About):
    with gr.Row(equal_height=False):
        photos = give_uploads(
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
        texts = give_uploads(
            gr.File(
                label='Comments: CSV with img_name, text (optional)',
                file_types=['.csv'],
                height=190,
                scale=2,
                min_width=240,
                elem_id='texts',
                visible=about.reads_text,
            ),
            page.uploads.folder,
        )
    button = gr.Button('Judge all', variant='primary', elem_id='judge-all')
    gallery = _html(show.nothing_yet(FIRST_MANY), 'gallery')
    gr.on(
        [button.click, photos.clear],
        page.many,
        [photos, texts],
        [gallery],
        api_visibility='private',
        show_progress_on=[gallery],
        **ONE_AT_A_TIME,
    )
    return photos, texts


def _html(value: str, name: str | None = None) -> gr.HTML:
    return gr.HTML(value, elem_id=name, apply_default_css=False)


def _api(function: Callable, inputs: list, name: str) -> None:
    """An endpoint of its own, that nothing on the page triggers."""
    gr.Button(visible=False).click(
        function,
        inputs,
        gr.JSON(visible=False),
        api_name=name,
        api_description=function.__doc__,
        **ONE_AT_A_TIME,
    )


def theme() -> gr.themes.Base:
    """Fonts that every machine has, and our colour."""
    shades = ('e9f4f6', 'd3e9ed', 'a9d4dc', '78bac7', '4d9daf', '2c8091', '17697a')
    dark = ('145a69', '104955', '0c3943', '082a31')
    colors = [f'#{shade}' for shade in (*shades, *dark)]  # eleven, from light to dark
    hue = gr.themes.Color(*colors)
    hue.name = 'amhp'
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
