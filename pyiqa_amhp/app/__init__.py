"""The page on which photographs are judged in a browser (extra ``app``: Gradio)."""
