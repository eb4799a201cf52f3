"""The page without its drawings, which take nearly all of the time: where only words are read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from markupsafe import Markup

from loadclient.compare.html import page

if TYPE_CHECKING:
    from loadclient.compare.study import Study


def undrawn(study: Study) -> str:
    """Return the page with an empty drawing in place of each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("loadclient.compare.html.plots._forest", lambda *_, **__: Markup("<svg/>"))
        patch.setattr("loadclient.compare.html.plots.svg", lambda _: Markup("<svg/>"))
        return page(study)
