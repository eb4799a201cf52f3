"""What a network does to what passes it, as `--netem` spells it. Pure: text in, a record out."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, isfinite

PLAIN = "veth"  # the spelling of two namespaces with a veth pair and nothing added
UNITS = {"delay": "ms", "jitter": "ms", "loss": "%", "rate": "mbit"}
BOUNDS = {"delay": (0, 1000), "jitter": (0, 1000), "loss": (0, 50), "rate": (0.1, 10_000)}
FORM = f'"{PLAIN}", or some of delay=20ms,jitter=2ms,loss=1%,rate=50mbit'
FRAME_BYTES = 1514  # a full Ethernet frame
QUEUE_SECONDS = 0.1  # of the rate, as the queue before a bottleneck
LEAST_QUEUED = 100  # frames
QUEUED_WITHOUT_A_RATE = 20_000  # frames: what is only delayed is never dropped


@dataclass(frozen=True, slots=True)
class Conditions:
    """What happens to a frame in either direction; all zero is a link that adds nothing."""

    delay: float = 0.0  # milliseconds each way, so a round trip takes twice that
    jitter: float = 0.0  # milliseconds that the delay varies up and down, evenly spread
    loss: float = 0.0  # per cent of the frames, each by lot
    rate: float = 0.0  # Mbit/s each way; 0 is no limit

    @property
    def is_plain(self) -> bool:
        """Tell whether nothing is added to the link."""
        return self == Conditions()

    @property
    def queued_frames(self) -> int:
        """Most frames that may be under way in one direction; what comes then is dropped."""
        if not self.rate:
            return QUEUED_WITHOUT_A_RATE
        seconds = (self.delay + self.jitter) / 1e3 + QUEUE_SECONDS
        return max(LEAST_QUEUED, ceil(self.rate * 1e6 / 8 * seconds / FRAME_BYTES))

    def __str__(self) -> str:
        """Return what `parse` reads as this."""
        given = ((name, unit, getattr(self, name)) for name, unit in UNITS.items())
        return ",".join(f"{name}={value:g}{unit}" for name, unit, value in given if value) or PLAIN


def parse(text: str) -> Conditions:
    """Read conditions.

    Raises ValueError with a sentence about what is wrong.
    """
    if text.strip() == PLAIN:
        return Conditions()
    values: dict[str, float] = {}
    for part in text.split(","):
        name, equals, value = (word.strip() for word in part.partition("="))
        if name not in UNITS or not equals:
            raise ValueError(f'"{text}": "{part.strip()}" is not understood; it must be {FORM}')
        if name in values:
            raise ValueError(f'"{text}": {name} is given twice')
        values[name] = _number(text, name, value)
    conditions = Conditions(**values)
    if conditions.is_plain:
        raise ValueError(f'"{text}": it changes nothing; "{PLAIN}" says so')
    if conditions.jitter > conditions.delay:
        raise ValueError(f'"{text}": the jitter is more than the delay, and no frame can be early')
    return conditions


def _number(text: str, name: str, value: str) -> float:
    unit = UNITS[name]
    least, most = BOUNDS[name]
    try:
        number = float(value.lower().removesuffix(unit))
    except ValueError:
        number = float("nan")
    if not isfinite(number) or not least <= number <= most:
        raise ValueError(
            f'"{text}": {name} must be a number from {least:g} to {most:g}, with or without {unit}'
        )
    return number
