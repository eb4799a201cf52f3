// A panel's targets, run as Grafana's data source runs them, and answered in its data frames.
import { FieldType, rangeUtil, toDataFrame } from '@grafana/data';

import { ask, askRange, number } from './prometheus.js';
import { settings, timeRange } from './settings.js';
import { escapeForPrometheus } from './variables.js';

const DEFAULT_POINTS = 1000; // what Grafana asks for where no panel's width is known

function seconds(text) {
  return rangeUtil.intervalToSeconds(text.replace(/^[<>]/, ''));
}

/**
 * The step of a query and the interval for its rates, in seconds. A query's own least step takes the
 * place of the scrape interval in both; the panel's only in the first.
 */
export function intervals(points, ofQuery, ofPanel) {
  const scrape = ofQuery ? seconds(ofQuery) : settings.scrapeSeconds;
  const least = !ofQuery && ofPanel ? seconds(ofPanel) : scrape;
  const { intervalMs } = rangeUtil.calculateInterval(timeRange, points || DEFAULT_POINTS, `${least}s`);
  const step = intervalMs / 1000;
  return { step, rate: Math.max(step + scrape, 4 * scrape) };
}

/** The variables that exist because of a query's step. */
export function builtIns({ step, rate }) {
  const range = Math.round((settings.toMs - settings.fromMs) / 1000);
  return {
    __interval: `${step}s`,
    __interval_ms: `${step * 1000}`,
    __rate_interval: `${rate}s`,
    __rate_interval_ms: `${rate * 1000}`,
    __range: `${range}s`,
    __range_s: `${range}`,
    __range_ms: `${range * 1000}`,
  };
}

function legend(target, labels, expr, variables) {
  const format = target.legendFormat;
  if (format === '__auto') {
    return Object.keys(labels).length ? undefined : expr; // undefined: Grafana names it by its labels
  }
  if (!format) {
    const { __name__: name = '', ...rest } = labels;
    const inner = Object.entries(rest).map(([key, value]) => `${key}="${value}"`);
    return name + (inner.length || !name ? `{${inner.join(', ')}}` : '');
  }
  const filled = format.replace(/\{\{\s*(.+?)\s*\}\}/g, (_, label) => labels[label] ?? '');
  return variables.interpolate(filled);
}

function seriesFrame(target, series, expr, step, variables) {
  const samples = series.values ?? [series.value];
  const name = legend(target, series.metric, expr, variables);
  return toDataFrame({
    refId: target.refId,
    name,
    fields: [
      {
        name: 'Time',
        type: FieldType.time,
        config: step ? { interval: step * 1000 } : {}, // lets Grafana leave a gap where samples miss
        values: samples.map(([at]) => at * 1000),
      },
      {
        name: 'Value',
        type: FieldType.number,
        labels: series.metric,
        config: name === undefined ? {} : { displayNameFromDS: name },
        values: samples.map(([, value]) => number(value)),
      },
    ],
  });
}

function tableFrame(target, result, manyTables) {
  const labels = [...new Set(result.flatMap((series) => Object.keys(series.metric)))].sort();
  const rows = result.flatMap((series) =>
    (series.values ?? [series.value]).map((sample) => [series.metric, sample])
  );
  return toDataFrame({
    refId: target.refId,
    fields: [
      { name: 'Time', type: FieldType.time, values: rows.map(([, [at]]) => at * 1000) },
      ...labels.map((label) => ({
        name: label,
        type: FieldType.string,
        config: { filterable: true },
        values: rows.map(([metric]) => metric[label] ?? ''),
      })),
      {
        name: manyTables ? `Value #${target.refId}` : 'Value',
        type: FieldType.number,
        values: rows.map(([, [, value]]) => number(value)),
      },
    ],
  });
}

/** Run one target of a panel; return its frames. */
async function runTarget(target, panel, points, variables, manyTables) {
  if (target.expr === undefined) {
    throw new Error(`target ${target.refId} is not a query of Prometheus`);
  }
  const spans = intervals(panel.maxDataPoints ?? points, target.interval, panel.interval);
  const expr = variables.interpolate(target.expr, {
    scoped: builtIns(spans),
    escape: escapeForPrometheus,
    strict: true,
  });
  const isInstant = target.instant === true && target.range !== true;
  const { result } = isInstant
    ? await ask('query', { query: expr, time: settings.toMs / 1000 })
    : await askRange(expr, spans.step);
  if (target.format === 'table') {
    return result.length ? [tableFrame(target, result, manyTables)] : [];
  }
  const step = isInstant ? 0 : spans.step;
  return result.map((series) => seriesFrame(target, series, expr, step, variables));
}

/** Run a panel's targets, drawn at *points* pixels; return the frames of all. */
export async function runTargets(panel, points, variables) {
  const targets = panel.targets.filter((target) => !target.hide);
  const manyTables = targets.filter((target) => target.format === 'table').length > 1;
  const frames = await Promise.all(
    targets.map((target) => runTarget(target, panel, points, variables, manyTables))
  );
  return frames.flat();
}
