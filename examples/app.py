"""Serve a demo of a trained model in the browser: texts, pairs and files, with the layers and words behind an answer.

python examples/app.py outputs/demo

The same as `hf-layerfusion app outputs/demo`; it needs Gradio (pip install "hf_layerfusion[app]"). docs/app.md shows
more.
"""

import sys

from hf_layerfusion.__main__ import main

if __name__ == "__main__":
    main(["app", *sys.argv[1:]])
