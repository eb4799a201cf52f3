import { getDisplayValueAlignmentFactors } from '@grafana/data';
import { BigValue, VizRepeater } from '@grafana/ui';

import { settings } from '../settings.js';
import { valuesOf } from './values.js';

export function StatPanel({ panel, frames, width, height, variables }) {
  const { options = {} } = panel;
  const values = valuesOf(panel, frames, variables, options.graphMode === 'area');
  return (
    <VizRepeater
      autoGrid={true}
      getAlignmentFactors={getDisplayValueAlignmentFactors}
      getValues={() => values}
      height={height}
      itemSpacing={3}
      orientation={options.orientation ?? 'auto'}
      renderValue={({ value, width, height, count, alignmentFactors }) => (
        <BigValue
          alignmentFactors={alignmentFactors}
          colorMode={options.colorMode ?? 'value'}
          count={count}
          graphMode={options.graphMode ?? 'none'}
          height={height}
          justifyMode={options.justifyMode ?? 'auto'}
          percentChangeColorMode={options.percentChangeColorMode}
          sparkline={value.sparkline}
          text={options.text}
          textMode={options.textMode ?? 'auto'}
          theme={settings.theme}
          value={value.display}
          wideLayout={options.wideLayout ?? true}
          width={width}
        />
      )}
      source={frames}
      width={width}
    />
  );
}
