// Prometheus' HTTP API, through the server that served this page.
import { settings } from './settings.js';

const ATTEMPTS = 5;
const PAUSE_MS = 200;

/** Fetch, again if need be: Chromium drops what is under way when any network interface changes. */
export async function fetched(address, attempts = ATTEMPTS) {
  try {
    return await fetch(address);
  } catch (error) {
    if (attempts === 1) {
      throw error;
    }
    await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
    return fetched(address, attempts - 1);
  }
}

/** Ask Prometheus; throws its own message. */
export async function ask(path, parameters) {
  const reply = await fetched(`prometheus/api/v1/${path}?${new URLSearchParams(parameters)}`);
  const text = await reply.text();
  let answer;
  try {
    answer = JSON.parse(text);
  } catch {
    throw new Error(`Prometheus answered ${reply.status}: ${text.slice(0, 200)}`);
  }
  if (answer.status !== 'success') {
    throw new Error(`${answer.errorType}: ${answer.error}`);
  }
  return answer.data;
}

/** Prometheus' spelling of a number: it says "NaN", "+Inf" and "-Inf". */
export function number(text) {
  if (text === '+Inf') {
    return Infinity;
  }
  return text === '-Inf' ? -Infinity : Number(text);
}

/** A range of samples, aligned to the step as Grafana aligns it. */
export function askRange(query, step) {
  const start = Math.floor(settings.fromMs / 1000 / step) * step;
  const end = Math.floor(settings.toMs / 1000 / step) * step;
  return ask('query_range', { query, start, end, step });
}
