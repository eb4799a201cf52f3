"""The order of the page, which is that of the questions.

May the machine be believed at all, what came out, by how much, why, and what may be said against
it. Rule: a section for which the study has no data is a sentence that says so. A missing plot looks
like a plot of nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from loadclient.compare.html import drawn, told

if TYPE_CHECKING:
    from loadclient.compare.html.parts import Section
    from loadclient.compare.study import Study

ORDER = (
    drawn.equal_daemons,
    told.verdicts_by_cell,
    drawn.ratios,
    drawn.sizes,
    drawn.latency,
    drawn.system_calls,
    drawn.wakeups,
    told.kernel,
    told.in_force,
    told.discarded,
    told.ledger,
    told.original,
    told.conditions,
    told.limits,
)


def sections(study: Study) -> list[Section]:
    """Return all of the page but its head and its raw slices."""
    return [section(study) for section in ORDER]
