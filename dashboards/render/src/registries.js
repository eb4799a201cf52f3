// What Grafana's front end registers at its start, and its published libraries expect to find.
import {
  FieldConfigOptionsRegistry,
  identityOverrideProcessor,
  standardTransformers,
  standardTransformersRegistry,
} from '@grafana/data';

const STANDARD = [
  'displayName', 'unit', 'min', 'max', 'decimals', 'thresholds', 'mappings', 'color', 'noValue',
  'links', 'description', 'filterable',
];
const CUSTOM = [
  'align', 'axisBorderShow', 'axisCenteredZero', 'axisColorMode', 'axisGridShow', 'axisLabel',
  'axisPlacement', 'axisSoftMax', 'axisSoftMin', 'axisWidth', 'barAlignment', 'barMaxWidth',
  'barWidthFactor', 'cellOptions', 'drawStyle', 'fillBelowTo', 'fillColor', 'fillOpacity',
  'gradientMode', 'hidden', 'hideFrom', 'inspect', 'insertNulls', 'lineColor', 'lineInterpolation',
  'lineStyle', 'lineWidth', 'minWidth', 'pointColor', 'pointSize', 'pointSymbol',
  'scaleDistribution', 'showPoints', 'spanNulls', 'stacking', 'thresholdsStyle', 'transform',
  'width', 'wrapHeaderText', 'wrapText',
];

function item(path, isCustom) {
  const id = isCustom ? `custom.${path}` : path;
  const always = () => true;
  return { id, path, isCustom, name: id, process: identityOverrideProcessor, shouldApply: always, settings: {} };
}

export const fieldConfigRegistry = new FieldConfigOptionsRegistry(() => [
  ...STANDARD.map((path) => item(path, false)),
  ...CUSTOM.map((path) => item(path, true)),
]);

const transformers = new Map(Object.values(standardTransformers).map((one) => [one.id, one]));

standardTransformersRegistry.setInit(() =>
  [...transformers.values()].map((one) => ({
    id: one.id,
    name: one.name,
    transformation: async () => one,
    editor: () => null,
  }))
);

/** Say what a panel uses and the libraries would pass over in silence; null if there is nothing. */
export function unknownIn(panel) {
  const transformation = (panel.transformations ?? []).find(({ id }) => !transformers.has(id));
  if (transformation) {
    return `render does not know the transformation ${transformation.id}`;
  }
  const properties = (panel.fieldConfig?.overrides ?? []).flatMap((override) => override.properties);
  const property = properties.find(({ id }) => !fieldConfigRegistry.getIfExists(id));
  return property ? `render does not know the override ${property.id}` : null;
}
