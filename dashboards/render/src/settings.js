// What the page was asked for: read from its own address, where Python put it.
import { createTheme, dateTime } from '@grafana/data';

const asked = new URLSearchParams(location.search);
const from = Number(asked.get('from'));
const to = Number(asked.get('to'));

export const settings = {
  board: asked.get('board'),
  theme: createTheme({ colors: { mode: asked.get('theme') } }),
  width: Number(asked.get('width')),
  fromMs: from,
  toMs: to,
  scrapeSeconds: Number(asked.get('scrape')),
  // Grafana's own spelling of a chosen value: var-job=etltd, once for each value.
  chosen: (name) => asked.getAll(`var-${name}`),
};

export const timeRange = {
  from: dateTime(from),
  to: dateTime(to),
  raw: { from: asked.get('raw'), to: 'now' },
};

export const TIME_ZONE = 'utc'; // the same picture on every machine
