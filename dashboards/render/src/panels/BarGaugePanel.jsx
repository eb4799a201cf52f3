import { getDisplayValueAlignmentFactors } from '@grafana/data';
import { BarGauge, VizRepeater } from '@grafana/ui';

import { settings } from '../settings.js';
import { valuesOf } from './values.js';

const SPACING = 8;

export function BarGaugePanel({ panel, frames, width, height, variables }) {
  const { options = {} } = panel;
  const values = valuesOf(panel, frames, variables, false);
  return (
    <VizRepeater
      getAlignmentFactors={getDisplayValueAlignmentFactors}
      getValues={() => values}
      height={height}
      itemSpacing={SPACING}
      maxVizHeight={options.maxVizHeight ?? 300}
      minVizHeight={options.minVizHeight ?? 16}
      minVizWidth={options.minVizWidth ?? 8}
      orientation={options.orientation ?? 'auto'}
      renderValue={({ value, width, height, orientation, alignmentFactors }) => (
        <BarGauge
          alignmentFactors={alignmentFactors}
          display={value.view?.getFieldDisplayProcessor(value.colIndex)}
          displayMode={options.displayMode ?? 'gradient'}
          field={value.field}
          height={height}
          itemSpacing={SPACING}
          lcdCellWidth={8}
          namePlacement={options.namePlacement}
          orientation={orientation}
          showUnfilled={options.showUnfilled}
          text={options.text}
          theme={settings.theme}
          value={value.display}
          valueDisplayMode={options.valueMode}
          width={width}
        />
      )}
      source={frames}
      width={width}
    />
  );
}
