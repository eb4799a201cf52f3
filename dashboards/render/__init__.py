"""Draw the boards with Grafana's own components, in a real browser, from a real Prometheus.

`command` is what a user types; `bundle` builds the page, `server` serves it, `browser` drives
Chromium, `findings` says what came of every panel. Nothing here needs a Grafana server, and
nothing here replaces one: README.md beside this file says where the difference lies.
"""
