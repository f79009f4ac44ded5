"""Gradio's components for files, as this page needs them."""

from pathlib import Path

import gradio as gr

from pyiqa_amhp.app.uploads import Upload

NOT_UPLOADED = 'this is not an uploaded file: upload the file itself'


def give_uploads(component: gr.Image | gr.File, folder: Path) -> gr.Image | gr.File:
    """Have functions get an ``Upload`` (of several files a list), unopened, or None.

    Gradio's own would fetch an address that a client gives instead of a file, open a picture
    with its own words on what is wrong with it, and leave an empty file behind for each upload.
    In an application of somebody else's it would also take any file of the server's.

    It is changed here and not by a subclass, for which Gradio would write a file beside ours.
    So it must not be an output of any event: a session would then get another, unchanged one.

    Args:
        folder: of the uploads; files outside it are refused.
    """
    keep = component.async_move_resource_to_block_cache

    async def keep_files_only(path: str | None) -> str | None:
        return await keep(path if path is None else _inside(path, folder))

    def uploads(payload) -> Upload | list[Upload] | None:
        several = getattr(component, 'file_count', 'single') != 'single'
        files = payload if hasattr(payload, 'root') else [payload] if payload is not None else []
        found = [Upload(_inside(file.path, folder), _name(file)) for file in files]
        return found or None if several else next(iter(found), None)

    # Changed on the object: see above.
    component.async_move_resource_to_block_cache = keep_files_only  # type: ignore
    component.preprocess = uploads  # type: ignore
    return component


def _inside(path: str | None, folder: Path) -> str:
    if not path or folder.resolve() not in Path(path).resolve().parents:
        raise gr.Error(NOT_UPLOADED, print_exception=False)
    return path


def _name(file) -> str:
    """What it was called where it came from, in characters that can be written."""
    name = Path((file.orig_name or '').replace('\\', '/')).name or Path(file.path).name
    return name.encode('utf-8', 'replace').decode()
