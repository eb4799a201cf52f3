"""loadclient: an open-loop load generator that accounts for every message."""
