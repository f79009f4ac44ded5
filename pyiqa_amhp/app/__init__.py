"""The page that scores photographs in a browser (extra ``app``: Gradio)."""
