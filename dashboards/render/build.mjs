// One script, one style sheet and their files, in dist/.
import { cpSync } from 'node:fs';

import { build } from 'esbuild';

await build({
  entryPoints: ['src/main.jsx'],
  outdir: 'dist',
  bundle: true,
  define: { 'process.env.NODE_ENV': '"production"' },
  jsx: 'automatic',
  loader: { '.svg': 'dataurl', '.ttf': 'file', '.woff': 'file', '.woff2': 'file' },
  logLevel: 'error',
  minify: true,
});
cpSync('index.html', 'dist/index.html');
cpSync('node_modules/@grafana/ui/dist/public', 'dist/public/build', { recursive: true }); // its icons
