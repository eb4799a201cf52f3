// One panel: queried, drawn, and labelled with what came of it (data-state, data-text).
import { PanelChrome } from '@grafana/ui';
import { Component, useEffect, useState } from 'react';

import { eventsFor } from './annotations.js';
import { pixels } from './board.js';
import { framesOf } from './frames.js';
import { DRAWN, QUERIED } from './panels/index.js';
import { TextPanel } from './panels/TextPanel.jsx';
import { settings } from './settings.js';

/** Ask for what the panel needs. Returns {state, text, ...what to draw}. */
async function prepare(panel, points, variables) {
  const Body = DRAWN[panel.type] ?? QUERIED[panel.type];
  if (panel.type === 'text') {
    return { state: 'ok', Body: TextPanel };
  }
  if (!Body) {
    return { state: 'error', text: `render does not know panels of type ${panel.type}` };
  }
  if (panel.repeat || panel.libraryPanel) {
    return { state: 'error', text: 'render knows neither repeated nor library panels' };
  }
  try {
    const drawn = await framesOf(panel, points, variables);
    if (drawn.isEmpty) {
      const text = drawn.points ? 'every sample is NaN or infinite' : 'no data';
      return { state: 'empty', text, Body: null };
    }
    return { state: QUERIED[panel.type] ? 'unsupported' : 'ok', Body, ...drawn };
  } catch (error) {
    return { state: 'error', text: error.message };
  }
}

/** A component that throws is an error of its panel, not of the page. */
class Guard extends Component {
  state = { broken: false };

  static getDerivedStateFromError() {
    return { broken: true };
  }

  componentDidCatch(error) {
    this.props.onError(`${error.message}`);
  }

  render() {
    return this.state.broken ? null : this.props.children;
  }
}

export function Panel({ panel, top, variables, annotations, onSettled }) {
  const [got, setGot] = useState({ state: 'loading' });
  const box = pixels(panel.gridPos, settings.width);
  useEffect(() => {
    prepare(panel, Math.floor(box.width), variables).then((result) => {
      setGot(result);
      onSettled();
    });
  }, []);
  const { Body, state, text } = got;
  const fail = (message) => setGot({ state: 'error', text: message });
  return (
    <section
      data-panel={panel.id}
      data-state={state}
      data-text={text}
      data-title={variables.interpolate(panel.title ?? '')}
      data-type={panel.type}
      style={{ ...box, position: 'absolute', top: box.top + top }}
    >
      <PanelChrome
        description={panel.description}
        displayMode={panel.transparent ? 'transparent' : 'default'}
        height={box.height}
        padding={panel.type === 'table' ? 'none' : 'md'}
        title={variables.interpolate(panel.title ?? '')}
        titleItems={(panel.links ?? []).map((link) => (
          <a href={variables.interpolate(link.url)} key={link.title} title={link.title}>
            ↗
          </a>
        ))}
        width={box.width}
      >
        {(width, height) =>
          Body ? (
            <Guard onError={fail}>
              <Body
                {...got}
                events={eventsFor(panel, annotations)}
                height={height}
                panel={panel}
                variables={variables}
                width={width}
              />
            </Guard>
          ) : (
            <p className={`said ${state}`}>{text ?? '…'}</p>
          )
        }
      </PanelChrome>
    </section>
  );
}
