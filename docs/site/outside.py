"""Links of a page to files that are not in docs/: to the page of the "
"site that shows them, else to their name as code."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(((?:\.\./)[^)\s#]*)(#[^)\s]*)?\)")
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changes.md",
    "SECURITY.md": "security.md",
    "benchmarks/RESULTS.md": "measurements.md",
}


def home(path: str, root: Path) -> str | None:
    """The page, below docs/, that shows a file of the repository."""
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    if path in PAGES:
        return PAGES[path]
    notebook = f"gallery/{Path(path).stem}.ipynb"
    return notebook if path.startswith("examples/") and (root / "docs" / notebook).is_file() else None


def rewritten(text: str, folder: str, root: Path) -> str:
    """The text of a page in this folder of docs/, its links outside turned into links within the site."""

    def anew(link: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join("docs", folder, link[2]))
        page = home(path, root)
        if page is None:
            return link[1] if "`" in link[1] else f"`{path}`"
        return f"[{link[1]}](/{page}{link[3] or ''})"

    return LINK.sub(anew, text)


def read(app: Any, name: str, source: list[str]) -> None:
    """Called by Sphinx with the text of every page."""
    if Path(app.env.doc2path(name)).suffix == ".md":
        source[0] = rewritten(source[0], posixpath.dirname(name), Path(app.srcdir).parent)


def setup(app: Any) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("source-read", read)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
