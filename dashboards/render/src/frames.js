// From a panel's queries to frames that are ready to be drawn, by Grafana's own data functions.
import {
  applyFieldOverrides,
  cacheFieldDisplayNames,
  FieldType,
  transformDataFrame,
} from '@grafana/data';
import { lastValueFrom } from 'rxjs';

import { runTargets } from './queries.js';
import { fieldConfigRegistry, unknownIn } from './registries.js';
import { settings, TIME_ZONE } from './settings.js';

const THRESHOLDS = {
  mode: 'absolute',
  steps: [
    { value: -Infinity, color: 'green' },
    { value: 80, color: 'red' },
  ],
};

// What Grafana's time series panel fills in where a board is silent.
const TIMESERIES = {
  axisPlacement: 'auto',
  barAlignment: 0,
  drawStyle: 'line',
  fillOpacity: 0,
  gradientMode: 'none',
  hideFrom: { tooltip: false, viz: false, legend: false },
  insertNulls: false,
  lineInterpolation: 'linear',
  lineWidth: 1,
  pointSize: 5,
  scaleDistribution: { type: 'linear' },
  showPoints: 'auto',
  spanNulls: false,
  stacking: { mode: 'none', group: 'A' },
  thresholdsStyle: { mode: 'off' },
};

/** JSON has no -Infinity: the lowest step is null there. */
function withLowestStep(thresholds) {
  const steps = thresholds.steps.map((step) => ({ ...step, value: step.value ?? -Infinity }));
  return { ...thresholds, steps };
}

function property({ id, value }) {
  return { id, value: id === 'thresholds' ? withLowestStep(value) : value };
}

/** The panel's field configuration with Grafana's defaults filled in. */
export function fieldConfigOf(panel) {
  const { defaults = {}, overrides = [] } = panel.fieldConfig ?? {};
  const isTimeseries = panel.type === 'timeseries';
  return {
    defaults: {
      mappings: [],
      color: { mode: isTimeseries ? 'palette-classic' : 'thresholds' },
      ...defaults,
      thresholds: withLowestStep(defaults.thresholds ?? THRESHOLDS),
      custom: { ...(isTimeseries ? TIMESERIES : {}), ...defaults.custom },
    },
    overrides: overrides.map((one) => ({ ...one, properties: one.properties.map(property) })),
  };
}

function transformed(panel, frames, variables) {
  const wanted = (panel.transformations ?? []).filter((one) => !one.disabled);
  if (!wanted.length) {
    return frames;
  }
  const interpolate = (text) => variables.interpolate(text);
  return lastValueFrom(transformDataFrame(wanted, frames, { interpolate }));
}

/** A line can be drawn through finite numbers only; Grafana's panel leaves gaps for the others. */
function withGaps(frame) {
  const fields = frame.fields.map((field) =>
    field.type === FieldType.number
      ? { ...field, values: field.values.map((value) => (Number.isFinite(value) ? value : null)) }
      : field
  );
  return { ...frame, fields };
}

/** Whether there is anything to see: a row of a table, or a number that is one. */
function hasFigures(frames) {
  return frames.some((frame) =>
    frame.fields.some((field) => field.type === FieldType.number && field.values.some(Number.isFinite))
  );
}

/** Query, transform and configure. Returns {frames, isEmpty, series, points}; throws in one sentence. */
export async function framesOf(panel, points, variables) {
  const unknown = unknownIn(panel);
  if (unknown) {
    throw new Error(unknown);
  }
  const answered = await runTargets(panel, points, variables);
  const data = await transformed(panel, answered, variables);
  const applied = applyFieldOverrides({
    data: panel.type === 'timeseries' ? data.map(withGaps) : data,
    fieldConfig: fieldConfigOf(panel),
    fieldConfigRegistry,
    replaceVariables: (text) => variables.interpolate(text),
    theme: settings.theme,
    timeZone: TIME_ZONE,
  });
  cacheFieldDisplayNames(applied); // without it a renamed column keeps its old name
  return {
    frames: applied,
    isEmpty: !hasFigures(answered) || !hasFigures(applied),
    series: answered.length,
    points: answered.reduce((sum, frame) => sum + frame.length, 0),
  };
}
