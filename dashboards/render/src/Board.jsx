// The page: a head that says what is shown, then rows and panels on Grafana's grid.
import { useEffect, useRef, useState } from 'react';

import { heightOf, pixels } from './board.js';
import { Panel } from './Panel.jsx';
import { settings } from './settings.js';
import { quiet } from './settle.js';

const HEAD_HEIGHT = 84;

export function Board({ board, panels, variables, annotations }) {
  const page = useRef(null);
  const [settled, setSettled] = useState(0);
  const drawn = panels.filter(({ type }) => type !== 'row');
  useEffect(() => {
    if (settled === drawn.length) {
      document.fonts.ready.then(() => quiet(page.current)).then(() => declare('drawn'));
    }
  }, [settled]);
  return (
    <main ref={page} style={{ width: settings.width, height: HEAD_HEIGHT + heightOf(panels) }}>
      <Head annotations={annotations} board={board} variables={variables} />
      {panels.map((panel, index) =>
        panel.type === 'row' ? (
          <Row key={index} panel={panel} variables={variables} />
        ) : (
          <Panel
            annotations={annotations}
            key={index}
            onSettled={() => setSettled((count) => count + 1)}
            panel={panel}
            top={HEAD_HEIGHT}
            variables={variables}
          />
        )
      )}
    </main>
  );
}

/** Tell whoever waits outside: `drawn`, or `broken` and why. */
export function declare(state, text = '') {
  document.documentElement.dataset.text = text;
  document.documentElement.dataset.board = state;
}

function Row({ panel, variables }) {
  const { left, top, width, height } = pixels(panel.gridPos, settings.width);
  return (
    <h2 data-row={panel.title} style={{ left, top: top + HEAD_HEIGHT, width, height }}>
      {variables.interpolate(panel.title ?? '')}
    </h2>
  );
}

function Head({ board, variables, annotations }) {
  const time = [settings.fromMs, settings.toMs].map((at) => new Date(at).toISOString().slice(0, 19));
  return (
    <header style={{ height: HEAD_HEIGHT }}>
      <h1>
        {board.title} <small>{time.join('Z to ')}Z</small>
      </h1>
      <p>
        {variables.shown().map(({ name, label, text, values }) => (
          <span className="chip" data-values={JSON.stringify(values)} data-variable={name} key={name}>
            <b>{label}</b> {text}
          </span>
        ))}
        {annotations.map(({ name, state, text, events }) => (
          <span
            className={`chip ${state}`}
            data-annotation={name}
            data-count={events.length}
            data-state={state}
            data-text={text}
            key={name}
            title={events.map((event) => event.text).join('\n')}
          >
            <b>{name}</b> {state === 'error' ? text : events.length}
          </span>
        ))}
        {(board.links ?? []).map(({ title, url }) => (
          <a className="chip" href={variables.interpolate(url ?? '')} key={title}>
            {title} ↗
          </a>
        ))}
      </p>
    </header>
  );
}
