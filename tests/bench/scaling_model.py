"""What 10⁴ to 10⁷ connections need, from measured unit costs: the table of SCALING.md.

Usage: python tests/bench/scaling_model.py
A model, not a measurement: it multiplies what was measured on one machine (SCALING.md says where),
and steps the number of instances up until no core, no NATS server and no link is over its limit.
"""

from __future__ import annotations

from dataclasses import dataclass

# Unit costs, measured on one of two shared cores.
IDLE_BYTES = 656  # resident memory of a connection (README: 10,000 idle connections)
SOCKET_BYTES = 3_000  # of the kernel for it, without data; an assumption
BASE_BYTES = 33_000_000  # of an instance without clients
SEND_SECONDS = 6e-6  # one send of a tick's batch to one client: the floor of the kernel (README)
RECEIVE_SECONDS = 30e-6  # the bus's thread, for one envelope of another instance
PUBLISH_SECONDS = 35e-6  # the bus's thread, for one of its own
NATS_SECONDS = 10e-6  # the server, for one envelope and one listener
ENVELOPE_BYTES = 90  # beside its lines

# Limits.
LOOP_CORE = 0.7  # of a core that a loop and its bus thread may use
NATS_CORES = 4.0
LINK_BYTES = 1.25e9  # per second into one instance's host: 10 Gbit/s
MOST_CONNECTIONS = 50_000  # of one instance: memory and a tick's length, not a limit of epoll
MOST_INSTANCES = 4096  # that one remembers (etltd.bus.sequence)
TICKS = 100  # per second and loop, when there is always something to say


@dataclass(frozen=True)
class Crowd:
    """Clients of one chat, and what they say."""

    connections: int
    messages: float  # per second, of all of them
    line_bytes: int = 80


@dataclass(frozen=True)
class Need:
    """What a crowd needs, with a number of instances."""

    instances: int
    loop_cores: float  # of each
    nats_cores: float
    link_bytes: float  # into each instance
    memory_bytes: float  # of all instances

    @property
    def fits(self) -> bool:
        """Whether nothing is over its limit."""
        return (
            self.loop_cores <= LOOP_CORE
            and self.nats_cores <= NATS_CORES
            and self.link_bytes <= LINK_BYTES
        )


def need(crowd: Crowd, instances: int) -> Need:
    """Return what *crowd* needs with so many *instances*."""
    own = crowd.connections / instances
    said_here = crowd.messages / instances
    ticks = min(TICKS, crowd.messages)  # one batch each, of everybody's lines
    published = min(TICKS, said_here)
    envelopes = published * (instances - 1)  # from each of the others
    loop = own * ticks * SEND_SECONDS
    if instances > 1:
        loop += published * PUBLISH_SECONDS + envelopes * RECEIVE_SECONDS
    nats = published * instances * (instances - 1) * NATS_SECONDS
    link = envelopes * ENVELOPE_BYTES + crowd.messages * crowd.line_bytes
    memory = instances * BASE_BYTES + crowd.connections * (IDLE_BYTES + SOCKET_BYTES)
    return Need(instances, loop, nats, link, memory)


def least(crowd: Crowd) -> Need | None:
    """Return what *crowd* needs with the fewest instances that do; None if no number does."""
    instances = -(-crowd.connections // MOST_CONNECTIONS)
    while instances <= MOST_INSTANCES:
        found = need(crowd, instances)
        if found.fits:
            return found
        instances += max(1, instances // 50)
    return None


def row(crowd: Crowd) -> str:
    """Return a row of the table."""
    head = f"| {crowd.connections:,} | {crowd.messages:,.0f} |"
    found = least(crowd)
    if found is None:
        return f"{head} more than {MOST_INSTANCES:,} | | | |"
    return (
        f"{head} {found.instances:,} | {found.loop_cores:.2f} | {found.nats_cores:.2f} | "
        f"{found.memory_bytes / 1e9:.1f} |"
    )


def table() -> str:
    """Return the table of SCALING.md."""
    rows = [
        row(Crowd(connections, messages))
        for connections in (10_000, 100_000, 1_000_000, 10_000_000)
        for messages in (1, 10, 1000)
    ]
    head = [
        "| connections | messages/s in all | instances | core of each loop | NATS cores | GB |",
        "|---|---|---|---|---|---|",
    ]
    return "\n".join([*head, *rows])


if __name__ == "__main__":
    print(table())
