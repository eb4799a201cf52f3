import { TimeSeries } from '@grafana/ui';
import { useLayoutEffect } from 'react';

import { settings, TIME_ZONE, timeRange } from '../settings.js';

const LEGEND = { showLegend: true, displayMode: 'list', placement: 'bottom', calcs: [] };

export function TimeSeriesPanel({ panel, frames, width, height, events }) {
  const { options = {} } = panel;
  return (
    <TimeSeries
      frames={frames}
      height={height}
      legend={{ ...LEGEND, ...options.legend }}
      options={options}
      timeRange={timeRange}
      timeZone={TIME_ZONE}
      width={width}
    >
      {(config) => <Events config={config} events={events} />}
    </TimeSeries>
  );
}

/** Annotations: a dashed line for a moment, a shade for a while. Our drawing, on Grafana's canvas. */
function Events({ config, events }) {
  useLayoutEffect(() => {
    config.addHook('draw', (plot) => events.forEach((event) => drawEvent(plot, event)));
  }, [config, events]);
  return null;
}

function drawEvent(plot, { fromMs, toMs, color }) {
  const { ctx } = plot;
  const { left, top, width, height } = plot.bbox;
  const [from, to] = [fromMs, toMs].map((at) => Math.round(plot.valToPos(at, 'x', true)));
  ctx.save();
  ctx.beginPath();
  ctx.rect(left, top, width, height);
  ctx.clip();
  ctx.strokeStyle = ctx.fillStyle = settings.theme.visualization.getColorByName(color ?? 'red');
  ctx.globalAlpha = 0.1;
  ctx.fillRect(from, top, to - from, height);
  ctx.globalAlpha = 1;
  ctx.setLineDash([6, 4]);
  ctx.beginPath();
  ctx.moveTo(from, top);
  ctx.lineTo(from, top + height);
  ctx.stroke();
  ctx.restore();
}
