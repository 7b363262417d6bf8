"""Run the Python of a document and write what it prints into the text block that follows each piece.

    python docs/execute.py docs/which_guide.md

A document is executed in an empty folder. The pictures that it saves there go into the folder `figures` beside it.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PIECE = re.compile(r"```python\n(.*?)```\n(?:\n```text\n(.*?)```\n)?", re.S)


def execute(document: Path, folder: Path) -> tuple[list[str], dict[str, object]]:
    """What each piece prints, and the names that are left at the end; files are written into the folder."""
    names: dict[str, object] = {"__name__": "document"}
    printed = []
    before = Path.cwd()
    os.chdir(folder)
    try:
        for number, piece in enumerate(PIECE.finditer(document.read_text(encoding="utf-8")), 1):
            said = io.StringIO()
            with contextlib.redirect_stdout(said):
                exec(compile(piece[1], f"{document.name}, piece {number}", "exec"), names)
            printed.append("\n".join(line.rstrip() for line in said.getvalue().strip("\n").splitlines()))
    finally:
        os.chdir(before)
    return printed, names


def main(document: Path) -> None:
    """Write the document anew, with what its pieces print now."""
    with tempfile.TemporaryDirectory() as place:
        for name in ("data", "examples"):
            (Path(place) / name).symlink_to((ROOT if name == "examples" else ROOT / "docs") / name)
        printed = iter(execute(document, Path(place))[0])
        for picture in [*Path(place).glob("*.png"), *Path(place).glob("*.svg")]:
            (document.parent / "figures").mkdir(exist_ok=True)
            shutil.copy(picture, document.parent / "figures")

    def anew(piece: re.Match[str]) -> str:
        said = next(printed)
        return f"```python\n{piece[1]}```\n" + (f"\n```text\n{said}\n```\n" if said else "")

    document.write_text(PIECE.sub(anew, document.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
