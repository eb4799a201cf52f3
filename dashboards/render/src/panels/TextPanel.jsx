import { renderTextPanelMarkdown, textUtil } from '@grafana/data';

/** A text panel's content; it queries nothing. */
export function TextPanel({ panel, variables }) {
  const { mode = 'markdown', content = '' } = panel.options;
  const text = variables.interpolate(content);
  const html = mode === 'html' ? textUtil.sanitize(text) : renderTextPanelMarkdown(text);
  return <div className="markdown-html" dangerouslySetInnerHTML={{ __html: html }} />;
}
