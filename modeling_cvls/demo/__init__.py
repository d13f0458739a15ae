"""A page to try a segmenter in the browser, made with gradio: overlay, masks and scores of a clip and sentences."""
