"""How many messages a peer may send: a token bucket; pure."""

from __future__ import annotations


class TokenBucket:
    """Allows *rate* messages per second on average and a second's worth at once."""

    __slots__ = ("_filled_ns", "_rate", "_tokens", "refused")

    def __init__(self, rate: float, now_ns: int) -> None:
        self._rate = rate
        self._tokens = max(rate, 1.0)
        self._filled_ns = now_ns
        self.refused = 0  # messages refused that the peer has not been told about

    def confess(self) -> int:
        """Return how many were refused since the peer was last told; it is being told now."""
        refused, self.refused = self.refused, 0
        return refused

    def saved(self) -> tuple[float, int, int]:
        """Return what `resume` takes."""
        return self._tokens, self._filled_ns, self.refused

    def resume(self, tokens: float, filled_ns: int, refused: int) -> None:
        """Go on where another bucket stopped; its rate may have been another."""
        self._tokens, self._filled_ns, self.refused = tokens, filled_ns, refused

    def take(self, wanted: int, now_ns: int) -> int:
        """Return how many of *wanted* messages are allowed now; the rest count as refused."""
        elapsed_seconds = (now_ns - self._filled_ns) / 1e9
        self._filled_ns = now_ns
        self._tokens = min(self._tokens + elapsed_seconds * self._rate, max(self._rate, 1.0))
        allowed = min(wanted, int(self._tokens))
        self._tokens -= allowed
        self.refused += wanted - allowed
        return allowed
