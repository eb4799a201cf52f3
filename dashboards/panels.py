"""House style: colours, panels, variables and annotations that all boards share.

ET is blue and LT is orange wherever a series is a mode: a pair that colour-blind people tell apart,
each with a contrast of at least 3:1 on the dark and the light theme (a test computes it). Where a
mode has two series, the second is dashed; where it has more, a colour is a kind and LT is dashed,
because shades of two colours cannot be told apart. Legends are lists without figures: these are in
the tooltip, and a table of many series would hide most of them behind a scroll bar. What is good or
bad is said by a word or a number, too. Every panel has a unit and a description; nothing below
nought is drawn.

Builders of the SDK change themselves and are made anew for every use: hence functions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypedDict, TypeVar, Unpack

from grafana_foundation_sdk.builders import bargauge, dashboard, prometheus, stat, table, timeseries
from grafana_foundation_sdk.builders import common as common_builders
from grafana_foundation_sdk.models import common, units
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from dashboards.queries import (
    CLIENT,
    DAEMON,
    LEFT,
    RANGE,
    RIGHT,
    mean_run_seconds,
    quantile,
    rate,
    restarted,
    right_over_left,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from grafana_foundation_sdk.cog.builder import Builder

    from dashboards.queries import Side

    Panels = Sequence[Builder[models.Panel]]

ET_COLOR, LT_COLOR = "#1F83E0", "#E0662B"
GOOD, BAD, UNKNOWN = "#1A9960", "#E02F44", "#8E8E8E"
# Of kinds, where a mode has more than two: neither mode's colour.
KINDS = ("#A352CC", "#1A9960", "#E02F44", "#1295A8", "#A87900", "#D63F97", UNKNOWN, "#8D6E63")
SYSTEM_CALLS = ("epoll_wait", "recvfrom", "sendmsg", "sendto", "epoll_ctl", "accept4", "close")
RIGHT_OF_IT = common.LegendPlacement.RIGHT  # for wide panels with many lines
PLAIN = "text"  # the theme's own
TITLE = 12  # pixels, of a value's name
THREE_VALUES = 26  # pixels: three of four digits beside each other on a laptop
# Pixels, of a bar's name: Grafana makes room for the longest at 12, and "et" is wider than "lt".
MANY_BARS = 11
AXIS = 60  # pixels: a time below narrow figures would begin beyond the panel's edge
# What a legend of one mode begins with: the mode, or the name of its daemon.
MODES = ((r"/^(etltd-)?et\b/", ET_COLOR), (r"/^(etltd-)?lt\b/", LT_COLOR))

BOARDS = (
    ("etlt-et-vs-lt", "ET vs LT"),
    ("etlt-daemon", "Daemon"),
    ("etlt-kernel", "Kernel"),
    ("etlt-bus", "Bus"),
)
TAG = "etlt"
WIDTH = 24  # columns of Grafana's grid
SIDES = (LEFT, RIGHT)
NEEDS_STATS = "needs etlt-probe --stats"
RATIO, DIFFERENCE = "ratio", "difference"

Panel = TypeVar("Panel", timeseries.Panel, stat.Panel, bargauge.Panel, table.Panel)


@dataclass(frozen=True, slots=True)
class Query:
    """An expression and the name of what it yields."""

    expr: str
    legend: str
    name: str = ""  # its letter, if a transformation or an override needs it


class Look(TypedDict, total=False):
    """How lines are drawn, where it is not as usual; *kinds* as in `graph`."""

    span: int
    height: int
    kinds: Sequence[str]
    legend: common.LegendPlacement


def data_source() -> common.DataSourceRef:
    """Return the reference to the data source that the board's reader chose."""
    return common.DataSourceRef(type_val="prometheus", uid="${datasource}")


def sides(expression: Callable[[Side], str], legend: str = "") -> tuple[Query, Query]:
    """Return the same question about the left and the right side."""
    left, right = (Query(expression(side), f"{side.name} {legend}".strip()) for side in SIDES)
    return left, right


# -- panels ---------------------------------------------------------------------------------------


def graph(
    title: str,
    unit: str,
    description: str,
    *queries: Query,
    **look: Unpack[Look],
) -> timeseries.Panel:
    """Return lines over time; *kinds* are words of the legend where a mode has several lines."""
    panel = _common(timeseries.Panel(), title, unit, description, queries)
    panel = panel.span(look.get("span", 8)).height(look.get("height", 9))
    panel = panel.min(0).line_width(2).fill_opacity(6)
    placement = look.get("legend", common.LegendPlacement.BOTTOM)
    panel = panel.show_points(common.VisibilityMode.AUTO).legend(_legend(placement))
    panel = panel.tooltip(
        common_builders.VizTooltipOptions()
        .mode(common.TooltipDisplayMode.MULTI)
        .sort(common.SortOrder.DESCENDING)
    )
    if unit == units.Short:
        panel = panel.axis_width(AXIS)
    kinds = look.get("kinds", ())
    if len(kinds) > len(SIDES):
        return _by_kind(panel, kinds)
    for second in kinds[1:]:
        panel = _dashed(panel, _word(second))
    return by_mode(panel)


def rates(
    title: str, unit: str, description: str, counter: str, labels: str, **look: Unpack[Look]
) -> timeseries.Panel:
    """Return the rate of a *counter*, a line for each value of *labels*, which are its name."""
    return graph(title, unit, description, rate_of(counter, labels), **look)


def quantiles(
    title: str, unit: str, description: str, buckets: str, labels: str
) -> timeseries.Panel:
    """Return median and 99th percentile of a histogram, given its `_bucket` series."""
    queries = (
        Query(quantile(q, buckets, labels), f"{named(labels)} {name}")
        for q, name in ((0.5, "p50"), (0.99, "p99"))
    )
    return graph(title, unit, description, *queries, kinds=("p50", "p99"))


def rate_of(counter: str, labels: str, word: str = "") -> Query:
    """Return the rate of a *counter* by *labels*, named by them and perhaps a *word*."""
    return Query(rate(counter, labels), f"{named(labels)} {word}".strip())


def p99_of(buckets: str, labels: str) -> Query:
    """Return the 99th percentile of a histogram by *labels*, named by them."""
    return Query(quantile(0.99, buckets, labels), named(labels))


def named(labels: str) -> str:
    """Return a legend of the values of *labels*: ``"mode, op"`` becomes ``"{{mode}} {{op}}"``."""
    return " ".join(f"{{{{{label}}}}}" for label in labels.split(", "))


def program_times(title: str, matchers: str, span: int) -> bargauge.Panel:
    """Return what the probe's own programs take, as far as it was told to measure that."""
    return bars(
        title,
        units.Seconds,
        "Mean time in the probe's programs, per run, sampled since the probe started "
        "(etlt-probe --stats). Each system call of a watched process pays for two.",
        Query(mean_run_seconds(matchers), "{{program}}"),
        empty=NEEDS_STATS,
        span=span,
    )


def number(
    title: str,
    unit: str,
    description: str,
    *queries: Query,
    span: int = 4,
    height: int = 5,
    pixels: int | None = None,
) -> stat.Panel:
    """Return present values as large text: as large as fits, or of so many *pixels*."""
    panel = _common(stat.Panel(), title, unit, description, queries, instant=True)
    panel = panel.span(span).height(height).graph_mode(common.BigValueGraphMode.NONE)
    panel = panel.color_mode(common.BigValueColorMode.VALUE).no_value("no data")
    panel = panel.text_mode(_text_mode(queries)).wide_layout(False).reduce_options(_last())
    panel = panel.color_scheme(_fixed(PLAIN))
    if pixels is not None:
        panel = panel.text(
            common_builders.VizTextDisplayOptions().title_size(TITLE).value_size(pixels)
        )
    return by_mode(panel)


def verdict(
    title: str,
    unit: str,
    description: str,
    expression: Callable[[Side], str],
    third: str = RATIO,
) -> stat.Panel:
    """Return left, right and their ratio, of a quantity of which less is better.

    Where a side may well be nought, the *third* value is the difference: there is no ratio.
    """
    left, right = expression(LEFT), expression(RIGHT)
    if third == RATIO:
        text, compared = "the ratio is right over left", right_over_left(left, right)
    else:
        text, compared = "the difference is right less left", f"({right}) - ({left})"
    queries = (*sides(expression), Query(compared, third))
    description = f"{description} Lower is better; {text}."
    panel = number(title, unit, description, *queries, span=8, height=4, pixels=THREE_VALUES)
    return panel.orientation(common.VizOrientation.VERTICAL).override_by_name(
        RATIO,
        [
            models.DynamicConfigValue(id_val="unit", value=units.NoUnit),
            models.DynamicConfigValue(id_val="decimals", value=3),
        ],
    )


def gate(
    title: str, description: str, limits: tuple[float, float], *queries: Query, span: int
) -> stat.Panel:
    """Return ratios that are good between two limits."""
    low, high = limits
    panel = number(
        title, units.NoUnit, description, *queries, span=span, height=4, pixels=THREE_VALUES
    )
    # Not the modes' colours: what is out of bounds is red, whichever side it is of.
    panel = panel.overrides([]).decimals(3).orientation(common.VizOrientation.VERTICAL)
    return panel.thresholds(_steps((None, BAD), (low, GOOD), (high, BAD))).color_scheme(_by_value())


def yes_or_no(
    title: str,
    description: str,
    words: tuple[str, str],
    *queries: Query,
    span: int,
    height: int = 4,
) -> stat.Panel:
    """Return 1 and 0 as two words, the first of which is the good one."""
    yes, no = words
    mapping = models.ValueMap(
        options={
            "1": models.ValueMappingResult(text=yes, color=GOOD, index=0),
            "0": models.ValueMappingResult(text=no, color=BAD, index=1),
        }
    )
    panel = number(title, units.NoUnit, description, *queries, span=span, height=height)
    panel = panel.mappings([mapping]).color_mode(common.BigValueColorMode.BACKGROUND_SOLID)
    return panel.overrides([]).thresholds(_steps((None, UNKNOWN))).color_scheme(_by_value())


def share(
    title: str, description: str, *queries: Query, warn: float, bad: float, span: int = 6
) -> bargauge.Panel:
    """Return shares of a limit as bars that say how near it is."""
    panel = bars(title, units.PercentUnit, description, *queries, span=span, height=5)
    panel = panel.max(1).overrides([])
    steps = _steps((None, GOOD), (warn, LT_COLOR), (bad, BAD))
    return panel.thresholds(steps).color_scheme(_by_value())


def bars(
    title: str,
    unit: str,
    description: str,
    *queries: Query,
    span: int = 12,
    height: int = 9,
    empty: str = "no data",
    pixels: int | None = None,
) -> bargauge.Panel:
    """Return present values as horizontal bars; *empty* is said when there are none.

    Their names are as large as fits, or of so many *pixels*.
    """
    panel = _common(bargauge.Panel(), title, unit, description, queries, instant=True)
    panel = panel.span(span).height(height).min(0).no_value(empty).reduce_options(_last())
    panel = panel.orientation(common.VizOrientation.HORIZONTAL)
    panel = panel.display_mode(common.BarGaugeDisplayMode.BASIC).color_scheme(_fixed(UNKNOWN))
    panel = panel.value_mode(common.BarGaugeValueMode.TEXT).show_unfilled(True)
    if pixels is not None:
        panel = panel.text(common_builders.VizTextDisplayOptions().title_size(pixels))
    return by_mode(panel)


def rows_by(
    key: str, title: str, description: str, columns: Sequence[tuple[Query, str, str]]
) -> table.Panel:
    """Return a table with a row per value of the label *key*; columns are (query, name, unit)."""
    queries = [query for query, _, _ in columns]
    panel = _common(table.Panel(), title, units.Short, description, ())
    for query in queries:
        target = _target(query, instant=True).format(PromQueryFormat.TABLE)
        panel = panel.with_target(target)
    times = {f"Time {number}": True for number in range(1, len(columns) + 1)} | {"Time": True}
    names = {f"Value #{query.name}": name for query, name, _ in columns}
    panel = panel.with_transformation(
        models.DataTransformerConfig(
            id_val="joinByField", options={"byField": key, "mode": "outer"}
        )
    ).with_transformation(
        models.DataTransformerConfig(
            id_val="organize", options={"excludeByName": times, "renameByName": names}
        )
    )
    for _, name, unit in columns:
        panel = panel.override_by_name(name, [models.DynamicConfigValue(id_val="unit", value=unit)])
    return panel.span(WIDTH).height(7)


def by_mode(panel: Panel) -> Panel:
    """Give ET and LT their colours."""
    for names, color in MODES:
        panel = _colored(panel, names, color)
    return panel


def _by_kind(panel: timeseries.Panel, kinds: Sequence[str]) -> timeseries.Panel:
    for kind, color in zip(kinds, KINDS, strict=False):
        panel = _colored(panel, _word(kind), color)
    lt, _ = MODES[1]
    return _dashed(panel, lt)


def _word(kind: str) -> str:
    """Return what finds *kind* in a legend, as a whole word."""
    return f"/(^| ){kind}( |$)/"


def _colored(panel: Panel, names: str, color: str) -> Panel:
    value = {"mode": models.FieldColorModeId.FIXED.value, "fixedColor": color}
    return panel.override_by_regexp(names, [models.DynamicConfigValue(id_val="color", value=value)])


def _dashed(panel: timeseries.Panel, names: str) -> timeseries.Panel:
    style = {"fill": "dash", "dash": [6, 4]}
    return panel.override_by_regexp(
        names, [models.DynamicConfigValue(id_val="custom.lineStyle", value=style)]
    )


def _common(
    panel: Panel,
    title: str,
    unit: str,
    description: str,
    queries: Sequence[Query],
    *,
    instant: bool = False,
) -> Panel:
    panel = panel.title(title).description(description).unit(unit).datasource(data_source())
    for letter, query in zip("ABCDEFGHIJ", queries, strict=False):
        panel = panel.with_target(_target(query, instant=instant, letter=letter))
    return panel


def _target(query: Query, *, instant: bool, letter: str = "") -> prometheus.Dataquery:
    target = prometheus.Dataquery().expr(query.expr).legend_format(query.legend)
    target = target.ref_id(query.name or letter).datasource(data_source())
    return target.instant() if instant else target.range()


def _legend(placement: common.LegendPlacement) -> common_builders.VizLegendOptions:
    return (
        common_builders.VizLegendOptions()
        .show_legend(True)
        .display_mode(common.LegendDisplayMode.LIST)
        .placement(placement)
        .calcs([])
    )


def _last() -> common_builders.ReduceDataOptions:
    return common_builders.ReduceDataOptions().calcs(["lastNotNull"])


def _text_mode(queries: Sequence[Query]) -> common.BigValueTextMode:
    many = len(queries) > 1 or "{{" in queries[0].legend
    return common.BigValueTextMode.VALUE_AND_NAME if many else common.BigValueTextMode.VALUE


def _steps(*steps: tuple[float | None, str]) -> dashboard.ThresholdsConfig:
    return (
        dashboard.ThresholdsConfig()
        .mode(models.ThresholdsMode.ABSOLUTE)
        .steps([models.Threshold(value=value, color=color) for value, color in steps])
    )


def _by_value() -> dashboard.FieldColor:
    return dashboard.FieldColor().mode(models.FieldColorModeId.THRESHOLDS)


def _fixed(color: str) -> dashboard.FieldColor:
    return dashboard.FieldColor().mode(models.FieldColorModeId.FIXED).fixed_color(color)


# -- variables ------------------------------------------------------------------------------------


def datasource_variable() -> dashboard.DatasourceVariable:
    """Return the choice of a Prometheus; provisioned boards need no import dialogue then."""
    return dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus")


def choice(name: str, query: str, *, label: str = "") -> dashboard.QueryVariable:
    """Return a choice of several values, all of them at first."""
    every = models.VariableOption(selected=True, text="All", value="$__all")
    return (
        _query_variable(name, query, label)
        .multi(True)
        .include_all(True)
        .all_value(".+")
        .current(every)
    )


def side_variable(side: Side, mode: str) -> dashboard.QueryVariable:
    """Return the choice of one side: a mode that is there, or a run in the time range."""
    found = (
        "group by (side) "
        f'(label_replace(last_over_time({series}[{RANGE}]), "side", "$1", "{label}", "(.+)"))'
        for series, label in (
            (f"etltd_build_info{{{DAEMON}}}", "mode"),
            (f"etlt_load_connections{{{CLIENT}}}", "run_id"),
        )
    )
    query = f"query_result({' or '.join(found)})"
    variable = _query_variable(side.variable, query, side.variable.capitalize())
    first = models.VariableOption(selected=True, text=mode, value=mode)
    return variable.regex('/side="([^"]+)"/').current(first)


def _query_variable(name: str, query: str, label: str) -> dashboard.QueryVariable:
    return (
        dashboard.QueryVariable(name)
        .label(label or name.replace("_", " ").capitalize())
        .datasource(data_source())
        .query(query)
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(models.VariableSort.ALPHABETICAL_ASC)
    )


def job_variable() -> dashboard.QueryVariable:
    """Return the choice of the daemons' jobs."""
    return choice("job", "label_values(etltd_build_info, job)")


def instance_variable() -> dashboard.QueryVariable:
    """Return the choice of daemons."""
    return choice("instance", 'label_values(etltd_build_info{job=~"$job"}, instance)')


def probe_job_variable() -> dashboard.QueryVariable:
    """Return the choice of the probes' jobs."""
    return choice("probe_job", "label_values(etlt_probe_collect_seconds, job)")


def probe_instance_variable() -> dashboard.QueryVariable:
    """Return the choice of probes."""
    return choice(
        "probe_instance", 'label_values(etlt_probe_collect_seconds{job=~"$probe_job"}, instance)'
    )


def client_job_variable() -> dashboard.QueryVariable:
    """Return the choice of the clients' jobs."""
    return choice("client_job", "label_values(etlt_load_connections, job)")


# -- the board ------------------------------------------------------------------------------------


def restarts() -> dashboard.AnnotationQuery:
    """Return marks where a daemon started anew, however long it was away."""
    return (
        _annotation("Daemon restarts", BAD)
        .expr(restarted())
        .title_format("etltd {{mode}} restarted")
        .text_format("{{instance}}")
    )


def runs() -> dashboard.AnnotationQuery:
    """Return a region from start to stop of every run's measured phase."""
    return (
        _annotation("Runs", UNKNOWN)
        .expr(f'max by (run_id, mode) (etlt_load_phase{{{CLIENT}, phase="measure"}}) == 1')
        .title_format("run {{run_id}}")
        .text_format("measured phase, {{mode}}")
        .tag_keys("mode,run_id")
    )


def _annotation(name: str, color: str) -> dashboard.AnnotationQuery:
    return (
        dashboard.AnnotationQuery()
        .name(name)
        .datasource(data_source())
        .enable(True)
        .icon_color(color)
        .step("1s")
    )


def board(
    uid: str,
    description: str,
    *,
    variables: Sequence[Builder[models.VariableModel]],
    annotations: Sequence[dashboard.AnnotationQuery] = (),
    rows: Mapping[str, Panels],
) -> dashboard.Dashboard:
    """Return a board in house style, with links to the others; *rows* are panels by heading."""
    whole = _empty(uid, description)
    for variable in variables:
        whole = whole.with_variable(variable)
    for annotation in annotations:
        whole = whole.annotation(annotation)
    for heading, panels in rows.items():
        whole = whole.with_row(dashboard.Row(heading))
        for panel in panels:
            whole = whole.with_panel(panel)
    return whole


def _empty(uid: str, description: str) -> dashboard.Dashboard:
    title = dict(BOARDS)[uid]
    empty = (
        dashboard.Dashboard(f"etlt / {title}")
        .uid(uid)
        .description(description)
        .tags([TAG, "epoll"])
        .readonly()
        .time("now-15m", "now")
        .refresh("10s")
        .timezone("browser")
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
    )
    for other, name in BOARDS:
        if other != uid:
            empty = empty.link(
                dashboard.DashboardLink(name)
                .type(models.DashboardLinkType.LINK)
                .icon("dashboard")
                .tooltip(f"The board {name}, same time range and choices")
                .url(f"/d/{other}")
                .include_vars(True)
                .keep_time(True)
            )
    return empty
