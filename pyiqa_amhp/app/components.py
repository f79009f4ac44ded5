"""Gradio's components for files, as this page needs them."""

from pathlib import Path

import gradio as gr

from pyiqa_amhp.app.uploads import Upload


def give_uploads(component: gr.Image | gr.File) -> gr.Image | gr.File:
    """Have functions get an ``Upload`` (of several files a list), unopened, or None.

    Gradio's own would fetch an address that a client gives instead of a file, open a picture
    with its own words on what is wrong with it, and leave an empty file behind for each upload.
    It is changed here and not by a subclass, for which Gradio would write a file beside ours.
    So it must not be an output of any event: a session would then get another, unchanged one.
    """
    keep = component.async_move_resource_to_block_cache

    async def keep_files_only(path: str | None) -> str | None:
        if path is not None and '://' in str(path):
            raise gr.Error('an address was given: upload the file itself', print_exception=False)
        return await keep(path)

    def uploads(payload) -> Upload | list[Upload] | None:
        several = getattr(component, 'file_count', 'single') != 'single'
        files = payload if hasattr(payload, 'root') else [payload] if payload is not None else []
        found = [upload_of(file) for file in files]
        return found or None if several else next(iter(found), None)

    component.async_move_resource_to_block_cache = keep_files_only
    component.preprocess = uploads
    return component


def upload_of(file) -> Upload:
    """Gradio's data about a file, as our own."""
    name = Path((file.orig_name or '').replace('\\', '/')).name or Path(file.path).name
    return Upload(file.path, name.encode('utf-8', 'replace').decode())
