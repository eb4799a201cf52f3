"""What came of every panel, read from the page's own elements after it was drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

# Resolves when the page has said that it stands still, or that it cannot.
STANDS_STILL = """new Promise((resolve) => {
  const root = document.documentElement;
  const look = () => root.dataset.board !== "loading" && resolve(root.dataset.board);
  new MutationObserver(look).observe(root, { attributes: true });
  look();
})"""

READ = """(() => {
  const root = document.documentElement;
  const all = (selector) => [...document.querySelectorAll(selector)];
  const SLACK = 0.05;  // pixels: scrollWidth is whole ones, and half of one is enough for dots
  const lacks = (one) => {
    const copy = one.cloneNode(true);
    copy.style.cssText += "; position: absolute; width: max-content; max-width: none";
    one.after(copy);
    const { width } = copy.getBoundingClientRect();
    copy.remove();
    return width - one.getBoundingClientRect().width;
  };
  return {
    state: root.dataset.board,
    text: root.dataset.text ?? "",
    variables: Object.fromEntries(all("[data-variable]").map(({ dataset }) =>
      [dataset.variable, JSON.parse(dataset.values)])),
    annotations: all("[data-annotation]").map(({ dataset }) => ({
      name: dataset.annotation, state: dataset.state, text: dataset.text ?? "",
      count: Number(dataset.count) })),
    panels: all("[data-panel]").map((panel) => ({
      title: panel.dataset.title, type: panel.dataset.type, state: panel.dataset.state,
      text: panel.dataset.text ?? "", shown: panel.innerText,
      clipped: [...panel.querySelectorAll("*")].some((one) =>
        one.scrollHeight > one.clientHeight + 2 &&
        ["auto", "scroll"].includes(getComputedStyle(one).overflowY)),
      cut: [
        ...[...panel.querySelectorAll("*")].filter((one) =>
          getComputedStyle(one).textOverflow === "ellipsis" && lacks(one) > SLACK)
          .map((one) => one.innerText),
        ...[...panel.querySelectorAll("[data-cut]")].map(({ dataset }) => dataset.cut),
      ],
      box: panel.getBoundingClientRect().toJSON() })),
  };
})()"""

GOOD = {"ok", "unsupported"}


class Look(NamedTuple):
    """What one picture is of."""

    board: str
    theme: str
    width: int

    @property
    def name(self) -> str:
        """Name its files."""
        return f"{self.board}-{self.theme}-{self.width}"


@dataclass(frozen=True)
class Picture:
    """One board, drawn once: what its page said of itself."""

    look: Look
    page: dict[str, Any]
    exceptions: tuple[str, ...]

    def count(self, state: str) -> int:
        """Return how many panels are in *state*."""
        return sum(panel["state"] == state for panel in self.page["panels"])

    def clipped(self) -> int:
        """Return how many panels hide a part of their legend or rows behind a scroll bar."""
        return sum(panel["clipped"] for panel in self.page["panels"])

    def problems(self) -> list[str]:
        """Return one sentence for all that a reader of the board would miss."""
        if self.page["state"] != "drawn":
            return [f"the board cannot be drawn: {self.page['text']}"]
        panels = [
            f'panel "{panel["title"]}" ({panel["type"]}): {panel["state"]}: {panel["text"]}'
            for panel in self.page["panels"]
            if panel["state"] not in GOOD
        ]
        clipped = [
            f'panel "{panel["title"]}" ({panel["type"]}): clipped: its legend or rows do not fit'
            for panel in self.page["panels"]
            if panel["clipped"]
        ]
        cut = [
            f'panel "{panel["title"]}" ({panel["type"]}): cut off: the label "{label}"'
            for panel in self.page["panels"]
            for label in panel["cut"]
        ]
        annotations = [
            f'annotation "{annotation["name"]}": error: {annotation["text"]}'
            for annotation in self.page["annotations"]
            if annotation["state"] == "error"
        ]
        thrown = [f"the page threw: {text}" for text in self.exceptions]
        return panels + clipped + cut + annotations + thrown

    def as_json(self) -> dict[str, Any]:
        """Return everything, for the file beside the pictures."""
        return {
            **self.look._asdict(),
            "file": f"{self.look.name}.png",
            **self.page,
            "problems": self.problems(),
        }

    def line(self) -> str:
        """Return what came out, in one line."""
        queried = self.count("unsupported")
        words = [f"{self.count('ok')} panels drawn"]
        words += [f"{queried} checked by query only"] if queried else []
        words += [f"{self.clipped()} with more than fits"] if self.clipped() else []
        words += [f"{len(self.problems())} problems"] if self.problems() else []
        return f"{' '.join(map(str, self.look))}: {', '.join(words)}: {self.look.name}.png"


def problems(pictures: Iterable[Picture]) -> list[str]:
    """Return every problem once, whatever the number of pictures that show it."""
    found = [f"{picture.look.board}: {text}" for picture in pictures for text in picture.problems()]
    return list(dict.fromkeys(found))


def queried_only(pictures: Iterable[Picture]) -> list[str]:
    """Return the panels whose queries were run and which only a Grafana server draws."""
    found = [
        f'{picture.look.board}: "{panel["title"]}": {panel["shown"].splitlines()[-1]}'
        for picture in pictures
        for panel in picture.page["panels"]
        if panel["state"] == "unsupported"
    ]
    return list(dict.fromkeys(found))
