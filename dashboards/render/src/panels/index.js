// Which of Grafana's components draws which type of panel.
import { BarGaugePanel } from './BarGaugePanel.jsx';
import { Placeholder } from './Placeholder.jsx';
import { StatPanel } from './StatPanel.jsx';
import { TablePanel } from './TablePanel.jsx';
import { TimeSeriesPanel } from './TimeSeriesPanel.jsx';

export const DRAWN = {
  bargauge: BarGaugePanel,
  stat: StatPanel,
  table: TablePanel,
  timeseries: TimeSeriesPanel,
};

// Part of Grafana's front end and of no published library: their queries are run, a note is drawn.
export const QUERIED = { heatmap: Placeholder, 'state-timeline': Placeholder };
