"""Gradio's components for files, as this page needs them."""

from pathlib import Path

import gradio as gr

from pyiqa_amhp.app.uploads import Upload


class _Uploaded:
    """Gives uploads as they are.

    Gradio's own would fetch an address that a client gives instead of a file, open the picture
    with its own words on what is wrong with it, and leave an empty file behind for each upload.
    """

    def get_block_name(self) -> str:
        """The name by which the browser knows Gradio's own."""
        return type(self).__bases__[1].__name__.lower()

    get_block_class = get_block_name

    async def async_move_resource_to_block_cache(self, url_or_file_path):
        """Gradio's own, but for addresses: this page asks no other machine for anything."""
        if url_or_file_path is not None and '://' in str(url_or_file_path):
            raise gr.Error('an address was given: upload the file itself', print_exception=False)
        return await super().async_move_resource_to_block_cache(url_or_file_path)


class PhotoUpload(_Uploaded, gr.Image):
    """One photograph; functions get an ``Upload`` or None."""

    def preprocess(self, payload):
        """What was uploaded, unopened."""
        return upload_of(payload)


class FileUpload(_Uploaded, gr.File):
    """One file, or several; functions get an ``Upload`` or a list of them, or None."""

    def preprocess(self, payload):
        """What was uploaded, unopened."""
        if self.file_count == 'single':
            return upload_of(payload[0] if hasattr(payload, 'root') else payload)
        files = payload if hasattr(payload, 'root') else [payload]
        return None if payload is None else [upload_of(file) for file in files]


def upload_of(file) -> Upload | None:
    """Gradio's data about a file, as our own."""
    if file is None or not file.path:
        return None
    name = Path((file.orig_name or '').replace('\\', '/')).name or Path(file.path).name
    return Upload(file.path, name.encode('utf-8', 'replace').decode())
