// The board's file: its panels in one list, placed on a grid as Grafana places them.
import { fetched } from './prometheus.js';

const COLUMNS = 24;
const CELL_HEIGHT = 30;
const GAP = 8;
const MARGIN = 16; // left and right of the grid

export async function loadBoard(name) {
  const reply = await fetched(`boards/${name}.json`);
  return reply.json();
}

/** All panels in order, with collapsed rows opened and what is below them moved down. */
export function panelsOf(board) {
  const listed = board.panels.toSorted((a, b) => a.gridPos.y - b.gridPos.y || a.gridPos.x - b.gridPos.x);
  let moved = 0;
  return listed.flatMap((panel) => {
    const place = (one) => ({ ...one, gridPos: { ...one.gridPos, y: one.gridPos.y + moved } });
    const inside = (panel.type === 'row' && panel.collapsed && panel.panels) || [];
    const placed = [panel, ...inside].map(place);
    if (inside.length) {
      moved += Math.max(...inside.map(({ gridPos }) => gridPos.y + gridPos.h)) - panel.gridPos.y - 1;
    }
    return placed;
  });
}

/** Pixels of a grid position on a page of *width* pixels. */
export function pixels({ x, y, w, h }, width) {
  const column = (width - 2 * MARGIN - GAP * (COLUMNS - 1)) / COLUMNS;
  return {
    left: MARGIN + x * (column + GAP),
    top: y * (CELL_HEIGHT + GAP),
    width: w * column + (w - 1) * GAP,
    height: h * CELL_HEIGHT + (h - 1) * GAP,
  };
}

export function heightOf(panels) {
  return Math.max(...panels.map(({ gridPos }) => (gridPos.y + gridPos.h) * (CELL_HEIGHT + GAP)));
}
