"""Coverage-guided fuzzing: ``python -m tests.fire.fuzz TARGET [SECONDS [THEN]]``; needs atheris.

New inputs that reach new code are kept in ``corpus/TARGET``, merged to the least that covers as
much, unless THEN is ``forget``. A finding is written to ``corpus/TARGET/found-*`` (replay it with
pytest) and ends the run. Nothing but the result of a merge that succeeded replaces the corpus.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CORPUS = Path(__file__).parent / "corpus"
LONGEST_INPUT = 1024
CHILD = f"{sys.executable} -m tests.fire.fuzz --child"


def fuzz(target: str, arguments: list[str]) -> None:
    """Run libFuzzer on *target* in this process; it does not return."""
    import atheris

    with atheris.instrument_imports(include=["etltd"]):
        from tests.fire import targets

    atheris.Setup(arguments, targets.TARGETS[target])
    atheris.Fuzz()


def main(target: str, seconds: str = "60", then: str = "keep") -> int:
    """Fuzz *target* for a while from the stored corpus, then keep what was worth keeping."""
    stored = CORPUS / target
    stored.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = folder / "fuzz"  # merging starts the program again: by its name, without Python's
        command.write_text(f"""#!/bin/sh\nexec {CHILD} {target} "$0" "$@"\n""")
        command.chmod(0o700)
        grown, merged = folder / "grown", folder / "merged"
        grown.mkdir()
        merged.mkdir()
        limits = [f"-max_len={LONGEST_INPUT}", f"-artifact_prefix={stored}/found-"]
        found = _run(command, f"-max_total_time={seconds}", *limits, grown, stored)
        if then == "forget":
            return found
        failed = _run(command, "-merge=1", *limits, merged, grown, stored)
        if failed or not any(merged.iterdir()):
            ended = f"ended with status {failed}" if failed else "kept nothing"
            print(f"fuzz: the merge {ended}: corpus/{target} stays as it was", file=sys.stderr)
            return found or failed or 1
        for old in stored.glob("[0-9a-f]*"):
            if not old.name.startswith("found"):
                old.unlink()
        for new in merged.iterdir():
            shutil.copy(new, stored / new.name)
    return found


def _run(*command: str | Path) -> int:
    return subprocess.run(command, cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    if sys.argv[1] == "--child":
        fuzz(sys.argv[2], sys.argv[3:])
    sys.exit(main(*sys.argv[1:]))
