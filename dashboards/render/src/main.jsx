// Draw one board; declare on the root element when it stands still.
import './fonts.css';
import './labels.js';
import './page.css';

import { ThemeContext } from '@grafana/data';
import { GlobalStyles } from '@grafana/ui';
import { createRoot } from 'react-dom/client';

import { annotationsOf } from './annotations.js';
import { loadBoard, panelsOf } from './board.js';
import { Board, declare } from './Board.jsx';
import { settings } from './settings.js';
import { Variables } from './variables.js';

async function draw() {
  declare('loading');
  const board = await loadBoard(settings.board);
  const variables = await Variables.of(board);
  const annotations = await annotationsOf(board, variables);
  const style = document.documentElement.style;
  style.setProperty('--canvas', settings.theme.colors.background.canvas);
  style.setProperty('--text', settings.theme.colors.text.primary);
  style.setProperty('--faint', settings.theme.colors.text.secondary);
  style.setProperty('--chip', settings.theme.colors.background.secondary);
  style.setProperty('--bad', settings.theme.colors.error.text);
  createRoot(document.getElementById('root')).render(
    <ThemeContext.Provider value={settings.theme}>
      <GlobalStyles isExtensionSidebarOpen={false} />
      <Board annotations={annotations} board={board} panels={panelsOf(board)} variables={variables} />
    </ThemeContext.Provider>
  );
}

draw().catch((error) => declare('broken', error.message));
