"""How many messages a peer may send: a token bucket; pure.

A bucket that went with its connection would be a fresh one for whoever connects anew, and the limit
would be none. So what it lacks stays behind, until it would have been full again. (A hand-over
forgets that: it gives away a second's worth, and nobody who is limited can ask for one.)
"""

from __future__ import annotations

from collections import OrderedDict
from math import ceil

MOST_LEFT = 1 << 14  # about 4 MB; each network has one, for a second


class TokenBucket:
    """Allows *rate* messages per second on average and a second's worth at once."""

    __slots__ = ("_filled_ns", "_rate", "_tokens", "refused")

    def __init__(self, rate: float, now_ns: int, full_ns: int = 0) -> None:
        """Begin with what a bucket holds *now_ns* that is full at *full_ns*."""
        lacking = max(0, full_ns - now_ns) / 1e9 * rate
        self._rate = rate
        self._tokens = max(max(rate, 1.0) - lacking, 0.0)
        self._filled_ns = now_ns
        self.refused = 0  # messages refused that the peer has not been told about

    @property
    def full_ns(self) -> int:
        """When it is full, if nothing more is taken; 0 if nothing was missing when last asked."""
        lacking = max(self._rate, 1.0) - self._tokens
        if not lacking:
            return 0
        return self._filled_ns + ceil(lacking / self._rate * 1e9)

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


class LeftBuckets:
    """What closed connections had used up: of each network one bucket, the emptiest.

    All have one rate, so the time at which it is full again says all of a bucket, and the emptiest
    is full last. Whoever follows another one goes on with no more than that one left. So a network
    has as many buckets as it has connections at one time, however many it makes one by one.
    """

    def __init__(self, most: int = MOST_LEFT) -> None:
        self._most = most
        self._full_ns: OrderedDict[bytes, int] = OrderedDict()  # the oldest first

    def __len__(self) -> int:
        return len(self._full_ns)

    def keep(self, network: bytes, full_ns: int) -> None:
        """Keep the bucket of a connection that ends, unless an emptier one is there.

        Beyond the most it takes the place of the oldest, which has had the longest time to fill.
        """
        if full_ns > self.full_ns(network):
            self._full_ns[network] = full_ns
            self._full_ns.move_to_end(network)
            if len(self._full_ns) > self._most:
                self._full_ns.popitem(last=False)

    def full_ns(self, network: bytes) -> int:
        """Return when the bucket is full with which a newcomer begins."""
        return self._full_ns.get(network, 0)

    def forget_full(self, now_ns: int) -> None:
        """Forget those that are full again: a newcomer has such a one by itself."""
        for network in [one for one, full_ns in self._full_ns.items() if full_ns <= now_ns]:
            del self._full_ns[network]
