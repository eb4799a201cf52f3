// The board's variables: their values, and their place in expressions and titles.
// A reimplementation: in Grafana this is part of the server's front end, which is not published.
import { ask } from './prometheus.js';
import { builtIns, intervals } from './queries.js';
import { settings } from './settings.js';

const ALL = '$__all';
const REFERENCE = /\$([a-zA-Z_]\w*)|\$\{(\w+)(?::(\w+))?\}|\[\[(\w+)\]\]/g;

/** A literal value in a quoted PromQL string: without a pattern, then as part of one. */
function quoteLiteral(value) {
  return value.replace(/\\/g, '\\\\').replace(/'/g, "\\\\'");
}

function quotePattern(value) {
  return value.replace(/\\/g, '\\\\\\\\').replace(/[$^*{}[\]'+?.()|]/g, '\\\\$&');
}

/** What Grafana's Prometheus data source makes of a variable that has no format of its own. */
export function escapeForPrometheus(variable) {
  const { values, isPattern } = variable;
  if (variable.allValue !== undefined) {
    return variable.allValue; // a pattern already
  }
  if (!isPattern) {
    return quoteLiteral(values[0]);
  }
  const quoted = values.map(quotePattern);
  return quoted.length === 1 ? quoted[0] : `(${quoted.join('|')})`;
}

const FORMATS = {
  raw: ({ values }) => values.join(','),
  csv: ({ values }) => values.join(','),
  pipe: ({ values }) => values.join('|'),
  text: ({ text }) => text,
  regex: ({ values }) => {
    const quoted = values.map((value) => value.replace(/[\\^$*+?.()|[\]{}/]/g, '\\$&'));
    return quoted.length === 1 ? quoted[0] : `(${quoted.join('|')})`;
  },
  queryparam: ({ name, values, isAll }) =>
    (isAll ? [ALL] : values).map((value) => `var-${name}=${encodeURIComponent(value)}`).join('&'),
};

function patternOf(definition) {
  const [, body, flags] = /^\/(.*)\/(\w*)$/.exec(definition.regex) ?? [null, definition.regex, ''];
  return new RegExp(body, flags);
}

function filtered(options, definition) {
  if (!definition.regex) {
    return options;
  }
  const pattern = patternOf(definition);
  const matches = options.map((option) => pattern.exec(option)).filter(Boolean);
  return matches.map((match) => match.groups?.value ?? match[1] ?? match[0]);
}

/** A sample in words, for a variable's pattern to pick from: name{label="value"} value milliseconds. */
function written({ metric: { __name__: name = '', ...labels }, value: [at, value] }) {
  const inner = Object.entries(labels).map(([label, text]) => `${label}="${text}"`);
  return `${name}{${inner.join(',')}} ${value} ${at * 1000}`;
}

async function ofQuery(definition, variables) {
  const text = definition.query.query ?? definition.query;
  const range = { start: settings.fromMs / 1000, end: settings.toMs / 1000 };
  const filled = variables.interpolate(text, {
    scoped: builtIns(intervals(0)),
    escape: escapeForPrometheus,
    strict: true,
  });
  const labels = /^label_values\((?:(.+),\s*)?(\w+)\)$/.exec(filled);
  if (labels) {
    const match = labels[1] ? { 'match[]': labels[1] } : {};
    return ask(`label/${labels[2]}/values`, { ...match, ...range });
  }
  const result = /^query_result\((.+)\)$/s.exec(filled);
  if (result) {
    return (await ask('query', { query: result[1], time: range.end })).result.map(written);
  }
  throw new Error(`variable ${definition.name}: render knows label_values(…) and query_result(…), not ${text}`);
}

function ofList(definition) {
  const parts = definition.query.match(/(?:\\,|[^,])+/g) ?? [];
  return parts.map((part) => part.replace(/\\,/g, ',').trim().replace(/^.+ : /, ''));
}

const OPTIONS = {
  query: ofQuery,
  custom: async (definition) => ofList(definition),
  interval: async (definition) => ofList(definition),
  constant: async (definition) => [definition.query],
  textbox: async (definition) => [definition.query ?? ''],
  datasource: async () => ['prometheus'],
};

function sorted(options, order) {
  if (order === 1 || order === 5) {
    return options.toSorted((a, b) => a.localeCompare(b));
  }
  return order === 2 ? options.toSorted((a, b) => b.localeCompare(a)) : options;
}

/** The values in force: asked for, else saved with the board if they still exist, else the first. */
function current(definition, options) {
  const asked = settings.chosen(definition.name);
  if (asked.length) {
    return asked;
  }
  const saved = [definition.current?.value ?? []].flat();
  if (saved.length && saved.every((value) => value === ALL || options.includes(value))) {
    return saved;
  }
  return definition.includeAll ? [ALL] : options.slice(0, 1);
}

export class Variables {
  known = new Map();

  /** Find the values of all of a board's variables, in the order of their definition. */
  static async of(board) {
    const variables = new Variables();
    for (const definition of board.templating?.list ?? []) {
      variables.known.set(definition.name, await variables.resolve(definition));
    }
    return variables;
  }

  async resolve(definition) {
    const { name, type, multi = false, includeAll = false } = definition;
    if (!OPTIONS[type]) {
      throw new Error(`variable ${name}: render does not know the type ${type}`);
    }
    const found = await OPTIONS[type](definition, this);
    const options = sorted([...new Set(filtered(found, definition))], definition.sort);
    if (!options.length) {
      throw new Error(`variable ${name} has no values`);
    }
    const values = current(definition, options);
    const isAll = values[0] === ALL;
    return {
      name,
      label: definition.label || name,
      type,
      hidden: definition.hide === 2,
      isPattern: multi || includeAll,
      isAll,
      allValue: isAll && definition.allValue ? definition.allValue : undefined,
      values: isAll ? options : values,
      text: isAll ? 'All' : values.join(' + '),
    };
  }

  /** Put values in place of references. Strict: an unknown name is an error, as in PromQL it must be. */
  interpolate(text, { scoped = {}, escape = FORMATS.text, strict = false } = {}) {
    return text.replace(REFERENCE, (reference, bare, braced, format, bracketed) => {
      const name = bare ?? braced ?? bracketed;
      if (name in scoped) {
        return scoped[name];
      }
      const variable = this.known.get(name);
      if (!variable && strict) {
        throw new Error(`no variable is called ${name}: ${text}`);
      }
      if (format && !FORMATS[format]) {
        throw new Error(`render does not know the format of ${reference}`);
      }
      return variable ? (FORMATS[format] ?? escape)(variable) : reference;
    });
  }

  shown() {
    return [...this.known.values()].filter((variable) => !variable.hidden);
  }
}
