"""What is counted of the bus, under the names it has on ``/metrics``.

As in `etltd.stats`: plain ints, and each has one writer, the loop or the link's thread.
"""

from __future__ import annotations

from dataclasses import dataclass

from etltd.stats import Log2Histogram, counter, counters, gauge, histogram


@dataclass(slots=True)
class BusStats:
    """Counters of one instance's part in the bus."""

    # The link's thread writes these.
    bus_connected: int = gauge("1 while connected to NATS, else 0.")
    bus_connects: int = counter("Connections made to NATS.")
    bus_reconnects: int = counter("Connections made to NATS after the first.")
    bus_connect_failures: int = counter("Connections to NATS that could not be made.")
    bus_published_batches: int = counter("Envelopes with messages handed to NATS.")
    bus_published_messages: int = counter("Messages in them.")
    bus_published_bytes: int = counter("Bytes handed to NATS, signs of life included.")

    # The loop writes these.
    bus_received_batches: int = counter("Envelopes of others with messages for our clients.")
    bus_received_messages: int = counter("Messages in them.")
    bus_received_bytes: int = counter("Bytes of all envelopes of others.")
    bus_gaps: int = counter("Gaps found in the numbers of other instances.")
    bus_lost_messages: int = counter(
        "Messages of others that never came, wherever they were lost; each client is told."
    )
    bus_late_messages: int = counter("Messages that came twice or after they were given up.")
    bus_foreign_envelopes: int = counter("What came over the subject and is no envelope of ours.")
    bus_peers: int = gauge("Other instances heard of within five seconds.")
    bus_outgoing_bytes: int = gauge("Bytes that wait for NATS.")
    bus_incoming_bytes: int = gauge("Bytes from NATS that wait for the loop.")
    bus_lag_seconds: Log2Histogram = histogram(
        "Time from the tick in which a batch was read there to the one in which it is delivered "
        "here, by two hosts' clocks.",
        *(17, 34),
        per_unit=1_000_000_000,
    )

    # Whoever drops it writes it; each reason is one's own.
    bus_dropped_messages: dict[str, int] = counters(
        "Messages given up on this side of the bus; who misses them counts them as lost.",
        "reason",
        ("outgoing_full", "too_large", "unsent", "incoming_full"),
    )
