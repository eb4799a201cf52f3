// Annotations: asked of Prometheus, listed above the board and drawn into its time series.
import { askRange } from './prometheus.js';
import { builtIns, intervals } from './queries.js';
import { escapeForPrometheus } from './variables.js';

const DEFAULT_STEP = '60s'; // Grafana's, where an annotation names none

function filled(format, labels) {
  return format?.replace(/\{\{\s*(.+?)\s*\}\}/g, (_, label) => labels[label] ?? '');
}

/** Neighbouring samples are one event that lasts: as Grafana's data source joins them. */
function eventsOf(series, definition, step) {
  const events = [];
  for (const [at, value] of series.values) {
    const last = events.at(-1);
    if (Number(value) === 0 || value === 'NaN') {
      continue;
    }
    if (last && at * 1000 - last.toMs <= step * 1000) {
      last.toMs = at * 1000;
      continue;
    }
    const text = filled(definition.titleFormat || definition.textFormat, series.metric) ?? '';
    events.push({ fromMs: at * 1000, toMs: at * 1000, text, color: definition.iconColor });
  }
  return events;
}

async function run(definition, variables) {
  const { name } = definition;
  const query = { ...definition, ...definition.target };
  try {
    const least = variables.interpolate(query.step || query.interval || DEFAULT_STEP);
    const spans = intervals(0, least);
    const expr = variables.interpolate(query.expr, {
      scoped: builtIns(spans),
      escape: escapeForPrometheus,
      strict: true,
    });
    const { result } = await askRange(expr, spans.step);
    const format = { ...definition, ...query };
    const events = result.flatMap((series) => eventsOf(series, format, spans.step));
    return { name, filter: definition.filter, state: events.length ? 'ok' : 'none', events };
  } catch (error) {
    return { name, state: 'error', text: error.message, events: [] };
  }
}

/** Run every annotation query that is on; what Grafana keeps in its own database there is none of. */
export function annotationsOf(board, variables) {
  const ours = (board.annotations?.list ?? []).filter((one) => one.enable !== false && !one.builtIn);
  return Promise.all(ours.map((definition) => run(definition, variables)));
}

/** The events that belong on this panel. */
export function eventsFor(panel, annotations) {
  const belongs = ({ filter }) => !filter || filter.ids.includes(panel.id) !== Boolean(filter.exclude);
  return annotations.filter(belongs).flatMap(({ events }) => events);
}
