import { getFieldDisplayValues } from '@grafana/data';

import { fieldConfigOf } from '../frames.js';
import { fieldConfigRegistry } from '../registries.js';
import { settings, TIME_ZONE } from '../settings.js';

/** The figures of a panel that shows one per series, with name, unit and colour. */
export function valuesOf(panel, frames, variables, sparkline) {
  return getFieldDisplayValues({
    data: frames,
    fieldConfig: fieldConfigOf(panel),
    fieldConfigRegistry,
    reduceOptions: { calcs: ['lastNotNull'], ...panel.options?.reduceOptions },
    replaceVariables: (text) => variables.interpolate(text),
    sparkline,
    theme: settings.theme,
    timeZone: TIME_ZONE,
  });
}
