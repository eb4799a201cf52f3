import { TableNG } from '@grafana/ui/unstable';

import { fieldConfigOf } from '../frames.js';
import { timeRange } from '../settings.js';

export function TablePanel({ panel, frames, width, height }) {
  if (frames.length > 1) {
    throw new Error(`a table shows one frame and here are ${frames.length}: join or merge them`);
  }
  const { options = {} } = panel;
  return (
    <TableNG
      cellHeight={options.cellHeight ?? 'sm'}
      data={frames[0]}
      fieldConfig={fieldConfigOf(panel)}
      height={height}
      initialSortBy={options.sortBy}
      noHeader={options.showHeader === false}
      structureRev={1}
      timeRange={timeRange}
      width={width}
    />
  );
}
