"""The fuzzer's corpus, replayed without the fuzzer; and a few inputs of Hypothesis's own."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.fire import fuzz
from tests.fire.targets import TARGETS
from tests.untraced import untraced

CORPUS = Path(__file__).parent / "corpus"


@pytest.mark.parametrize("target", TARGETS)
@untraced()
def test_nothing_in_the_corpus_breaks_it(target: str) -> None:
    """Each file once reached code that no other did, or was a finding."""
    stored = sorted((CORPUS / target).iterdir())
    assert stored, "no corpus"
    for path in stored:
        try:
            TARGETS[target](path.read_bytes())
        except AssertionError as error:
            raise AssertionError(f"{path.name}: {error}") from error


@pytest.mark.parametrize("target", TARGETS)
def test_nothing_that_hypothesis_thinks_of_breaks_it(target: str) -> None:
    @given(st.binary(max_size=200))
    @example(bytes(range(256)))
    @settings(max_examples=100)
    def play(data: bytes) -> None:
        TARGETS[target](data)

    play()


MERGE = 'case "$*" in *-merge=1*) %s;; esac\n'
MERGED = "$6"  # after target, program, and three options


class Fuzzing:
    """`fuzz.main` on a copy of a corpus, with a fuzzer that is written in the shell."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.corpus = folder / "corpus" / "decoder"
        shutil.copytree(CORPUS / "decoder", self.corpus)
        self._script = folder / "child"
        monkeypatch.setattr(fuzz, "CORPUS", self.corpus.parent)
        monkeypatch.setattr(fuzz, "CHILD", f"sh {self._script}")

    def run(self, child: str) -> int:
        self._script.write_text(child)
        return fuzz.main("decoder", "1")


@pytest.fixture
def fuzzing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fuzzing:
    return Fuzzing(tmp_path, monkeypatch)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("child", "status", "said"),
    [
        ("exit 3", 3, "the merge ended with status 3"),
        ("exit 0", 1, "the merge kept nothing"),
        (MERGE % "exit 4" + "exit 0", 4, "the merge ended with status 4"),
        (MERGE % "exit 4" + "exit 77", 77, "the merge ended with status 4"),
        (MERGE % f'echo half > "{MERGED}/0"; exit 4', 4, "the merge ended with status 4"),
    ],
    ids=["cannot run", "keeps nothing", "cannot merge", "a finding, cannot merge", "half a merge"],
)
def test_a_fuzzer_that_cannot_merge_leaves_the_corpus(
    fuzzing: Fuzzing, capfd: pytest.CaptureFixture[str], child: str, status: int, said: str
) -> None:
    before = contents(fuzzing.corpus)

    assert fuzzing.run(child) == status

    assert contents(fuzzing.corpus) == before
    assert capfd.readouterr().err == f"fuzz: {said}: corpus/decoder stays as it was\n"


@pytest.mark.parametrize("status", [0, 77])
def test_what_a_merge_kept_replaces_the_corpus_but_for_findings(
    fuzzing: Fuzzing, status: int
) -> None:
    (fuzzing.corpus / "found-crash").write_bytes(b"found")
    child = MERGE % f'printf new > "{MERGED}/0123"; exit 0' + f"exit {status}"

    assert fuzzing.run(child) == status

    assert contents(fuzzing.corpus) == {"0123": b"new", "found-crash": b"found"}
