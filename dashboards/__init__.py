"""The view: dashboards and rules as code. Imports none of the programs that it shows."""
