"""The page that draws a board: built from `src` once, and kept outside the repository.

npm fetches what `package-lock.json` names (by checksum), esbuild makes one script of it, and the
half gigabyte it came from is deleted again. The key is everything that went in.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from dashboards.render.errors import CannotRenderError

HERE = Path(__file__).parent
INPUTS = (".npmrc", "build.mjs", "index.html", "package.json", "package-lock.json")
PATIENCE_SECONDS = 900.0  # a slow network and a slow machine
NEEDED = {"node": "nodejs", "npm": "npm"}  # command: Debian's package
TAIL_LINES = 8  # of npm's own words, when it fails


def cache() -> Path:
    """Return the folder where built pages are kept."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "etlt-dashboards"


def inputs() -> list[Path]:
    """Return every file that the page is made of."""
    sources = sorted(path for path in (HERE / "src").rglob("*") if path.is_file())
    return [*(HERE / name for name in INPUTS), *sources]


def key() -> str:
    """Return the name of the page that the sources make now."""
    digest = hashlib.sha256()
    for path in inputs():
        content = path.read_bytes()
        digest.update(f"{path.relative_to(HERE)}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()[:20]


def bundle() -> Path:
    """Return the folder of the built page; build it if there is none. Raises CannotRenderError."""
    built = cache() / key()
    if built.is_dir():
        return built
    missing = [name for name in NEEDED if shutil.which(name) is None]
    if missing:
        packages = " ".join(NEEDED[name] for name in missing)
        raise CannotRenderError(
            f"building the page needs {' and '.join(missing)}: sudo apt-get install {packages}"
        )
    built.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=built.parent, prefix="building-") as name:
        folder = Path(name)
        _build(folder)
        try:
            (folder / "dist").rename(built)
        except OSError:  # somebody else built the same page meanwhile
            if not built.is_dir():
                raise
    return built


def _build(folder: Path) -> None:
    print("building the page (once; npm fetches about 500 MB)", file=sys.stderr, flush=True)
    for path in inputs():
        copy = folder / path.relative_to(HERE)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    _npm(folder, "ci")
    _npm(folder, "run", "--silent", "build")


def _npm(folder: Path, *arguments: str) -> None:
    try:
        run = subprocess.run(  # noqa: S603 - our own arguments
            [shutil.which("npm") or "npm", *arguments],
            cwd=folder, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise CannotRenderError(
            f"npm {arguments[0]} has not ended within {PATIENCE_SECONDS:.0f} s"
        ) from error
    if run.returncode:
        said = "\n".join((run.stderr or run.stdout).splitlines()[-TAIL_LINES:])
        raise CannotRenderError(f"npm {arguments[0]} failed:\n{said}")
