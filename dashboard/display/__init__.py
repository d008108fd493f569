"""How values are shown, alike on pages that Python writes and in charts that scripts redraw.

`numbers`, `axes` and `reasons` are written once, in a plain part of Python, and translated:
``python -m dashboard.display`` writes ``assets/js/display.js``.
"""
