"""The comparison as one HTML file, for people: opens offline, has no script, asks for nothing.

`page` puts it together, `sections` says what there is, `findings` turns verdicts into titles,
`plots` has the drawings made, `tables` holds every figure, `looks` is what a mode looks like.

Rule: nothing is computed here that is not in the stored study. A drawing, a table and a sentence
about one thing are all taken from the same field.
"""

from loadclient.compare.html.page import page, write_html

__all__ = ["page", "write_html"]
