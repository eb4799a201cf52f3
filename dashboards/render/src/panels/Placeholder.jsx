/** What stands where only a Grafana server could draw: the answer to the queries, in words. */
export function Placeholder({ panel, series, points }) {
  return (
    <p className="placeholder">
      {panel.type}: checked by query only ({series} series, {points} points). Only a Grafana server draws it.
    </p>
  );
}
