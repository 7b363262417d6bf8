"""Notebook twins of the examples: docs/gallery/NAME.ipynb, made from examples/NAME.py and executed.

    python docs/notebooks.py counts          # one of them; without names all

The docstring of a script becomes the text, its definitions become cells, the body of `main` becomes cells at the top
level, and a last cell draws the pair. The notebook keeps what its cells print and show, so that the site need not run
anything.
"""

from __future__ import annotations

import ast
import base64
import contextlib
import io
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
EXAMPLES = HERE.parent / "examples"
GALLERY = HERE / "gallery"
PICTURES = dict.fromkeys(
    ("counts", "factor_analysis", "hierarchy", "mixed_table", "mixture", "regression"),
    "ppl_vae.draw(model, guide, data)",
)
"""What the last cell of a notebook shows."""
NAMES = (*PICTURES, "missing_not_at_random", "scikit_learn")


def cells(script: str, last: str = "") -> list[tuple[str, str]]:
    """The cells, ("markdown" or "code", text), of a script that has a docstring and a function `main`.

    >>> cells('"One.\\n\\nTwo."\\nimport os\\n\\n\\ndef main(n=3):\\n    print(n)\\n    return n\\n')
    [('markdown', '# One\\n\\nTwo.'), ('code', 'import os'), ('code', 'n = 3\\nprint(n)')]
    """
    tree = ast.parse(script)
    lines = script.splitlines()
    title, _, text = (ast.get_docstring(tree) or "").partition("\n")
    body = text.strip("\n")  # its first line may be indented code
    found = [("markdown", f"# {title.rstrip('.')}\n\n{body}".strip())]
    group: list[str] = []

    def flush() -> None:
        if group:
            found.append(("code", "\n".join(group).strip("\n")))
            group.clear()

    before = 0
    for node in tree.body:
        start = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
        source = lines[start - 1 : node.end_lineno]
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            before = node.end_lineno or 0
            continue
        if isinstance(node, ast.FunctionDef) and node.name == "main":
            flush()
            found += [("code", text) for text in _body(node, lines)]
        elif isinstance(node, ast.If):
            continue  # what runs a script
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            flush()
            found.append(("code", "\n".join(source)))
        else:
            if group:
                group += [""] * min(1, start - before - 1)
            group += source
        before = node.end_lineno or 0
    flush()
    return [*found, *([("code", last)] if last else [])]


def _body(main: ast.FunctionDef, lines: list[str]) -> list[str]:
    """The statements of `main` at the top level: arguments as variables, and a new cell after each that prints."""
    names = main.args.args[len(main.args.args) - len(main.args.defaults) :]
    given = [f"{a.arg} = {ast.unparse(v)}" for a, v in zip(names, main.args.defaults, strict=True)]
    parts, part = [], given
    end = main.body[0].lineno - 1
    for node in main.body:
        if isinstance(node, ast.Return) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)):
            end = node.end_lineno or 0
            continue
        part += [line[4:] for line in lines[end : node.end_lineno] if line.strip() or part]
        end = node.end_lineno or 0
        if "print(" in "\n".join(lines[node.lineno - 1 : end]):
            parts.append("\n".join(part))
            part = []
    return [text.strip("\n") for text in [*parts, "\n".join(part)] if text.strip()]


def execute(code: list[str], folder: Path) -> list[list[dict[str, Any]]]:
    """What each cell prints, and shows as the value of its last line."""
    names: dict[str, Any] = {"__name__": "notebook"}
    outputs = []
    before = Path.cwd()
    os.chdir(folder)
    try:
        for number, text in enumerate(code, 1):
            tree = ast.parse(text)
            shown = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
            said = io.StringIO()
            with contextlib.redirect_stdout(said):
                exec(compile(tree, f"cell {number}", "exec"), names)
                value = (
                    None
                    if shown is None
                    else eval(compile(ast.Expression(shown.value), f"cell {number}", "eval"), names)
                )
            outputs.append(list(_outputs(said.getvalue(), value, number)))
    finally:
        os.chdir(before)
    return outputs


def _outputs(printed: str, value: Any, number: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    if printed:
        text = "\n".join(line.rstrip() for line in printed.splitlines())
        found.append({"output_type": "stream", "name": "stdout", "text": text.splitlines(keepends=True)})
    if value is not None:
        data: dict[str, Any] = {"text/plain": repr(value).splitlines(keepends=True)}
        for kind, method in (
            ("image/svg+xml", "_repr_svg_"),
            ("text/html", "_repr_html_"),
            ("image/png", "_repr_png_"),
        ):
            if (made := getattr(value, method, lambda: None)()) is not None:
                data[kind] = (
                    base64.b64encode(made).decode() if isinstance(made, bytes) else made.splitlines(keepends=True)
                )
        found.append({"output_type": "execute_result", "data": data, "metadata": {}, "execution_count": number})
    return found


def notebook(found: list[tuple[str, str]], outputs: list[list[dict[str, Any]]]) -> dict[str, Any]:
    """A notebook of format 4."""
    told, made, number = iter(outputs), [], 0
    for i, (kind, text) in enumerate(found):
        cell: dict[str, Any] = {"id": f"cell-{i}", "cell_type": kind, "metadata": {}}
        cell["source"] = text.splitlines(keepends=True)
        if kind == "code":
            number += 1
            cell |= {"execution_count": number, "outputs": next(told)}
        made.append(cell)
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    meta = {"kernelspec": kernel, "language_info": {"name": "python"}}
    return {"cells": made, "metadata": meta, "nbformat": 4, "nbformat_minor": 5}


def of_example(name: str) -> list[tuple[str, str]]:
    """The cells of an example."""
    return cells((EXAMPLES / f"{name}.py").read_text(encoding="utf-8"), PICTURES.get(name, ""))


def main(names: list[str]) -> None:
    """Make these notebooks anew."""
    GALLERY.mkdir(exist_ok=True)
    for name in names or NAMES:
        found = of_example(name)
        with tempfile.TemporaryDirectory() as folder:
            outputs = execute([text for kind, text in found if kind == "code"], Path(folder))
        text = json.dumps(notebook(found, outputs), indent=1, ensure_ascii=False)
        (GALLERY / f"{name}.ipynb").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
