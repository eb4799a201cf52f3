"""The one exception that reaches the user."""


class Refused(Exception):  # noqa: N818  a refusal is an answer, not a malfunction
    """What keeps the probe from counting, in one sentence: what is missing, and what to type."""
