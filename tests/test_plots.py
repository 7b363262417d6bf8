"""Pictures show what they were given and refuse what does not fit; the page lets nothing through."""

import base64
import io
import re

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.image import imread

from ppl_vae import plots
from ppl_vae.errors import UserError
from ppl_vae.plots import drawing
from ppl_vae.reporting import _html as html
from ppl_vae.saving import atomic


@pytest.fixture(autouse=True)
def print_quality(monkeypatch):
    monkeypatch.setattr(drawing, "DPI", 200)


def rows(*shape):
    return np.random.default_rng(0).random(shape)


def history(n=30, **extra):
    return [{"epoch": i, "train": -80 - 400 * np.exp(-float(i)), **extra} for i in range(1, n + 1)]


NAMES = [f"c{i}" for i in range(14)]
# Every drawing, and a word that a reader must find in it.
FIGURES = {
    "curve": (lambda: plots.training_curve(history()), "bound (nats per row)"),
    "curve one epoch": (lambda: plots.training_curve(history(1, validation=None)), "training rows"),
    "curve diverged": (lambda: plots.training_curve([{"epoch": 1, "train": float("nan")}]), "epoch"),
    "curve parts": (
        lambda: plots.training_curve(history(rate=3.0, distortion=70.0, beta=0.5), best_epoch=20),
        "rate, KL(q‖p)",
    ),
    "reconstructions": (
        lambda: plots.reconstructions(rows(14, 3, 4), rows(14, 3, 4), draw=rows(14, 3, 4), labels=range(14)),
        "draw",
    ),
    "reconstructions without draws": (lambda: plots.reconstructions(rows(4, 3, 4), rows(4, 3, 4)), "mean"),
    "reconstructions colour": (lambda: plots.reconstructions(rows(2, 3, 4, 4), rows(2, 3, 4, 4)), "data"),
    "samples": (lambda: plots.samples(rows(10, 1, 4, 4), title="prior"), "prior"),
    "traversal": (
        lambda: plots.traversal(rows(2, 3, 4, 4), [-1.5, 0, 1.5], ["z3  KL 2.1 nats", "z0"]),
        "z3  KL 2.1 nats",
    ),
    "interpolation": (
        lambda: plots.interpolation(rows(1, 5, 4, 4), ends=[("test row 12", "test row 40")]),
        "test row 12",
    ),
    "map": (lambda: plots.latent_map(rows(9, 2)), "first axis"),
    "map labels": (lambda: plots.latent_map(rows(9, 2), labels=torch.arange(9) % 3, names="abc"), "c"),
    "map some labels": (
        lambda: plots.latent_map(rows(4, 2), labels=[None, "cat", "dog", float("nan")]),
        "unlabelled",
    ),
    "map no labels": (lambda: plots.latent_map(rows(4, 2), labels=[None] * 4), "first axis"),
    "map values": (lambda: plots.latent_map(rows(40, 2), labels=rows(40)), "label"),
    "map many names": (
        lambda: plots.latent_map(rows(30, 2), labels=[f"n{i}" for i in range(30)]),
        "30 classes, not coloured",
    ),
    "rate": (
        lambda: plots.rate_per_latent(rows(80), active=rows(80) > 0.5),
        "KL to the prior (nats per row)",
    ),
    "table reconstructions": (
        lambda: plots.table_reconstructions(rows(9, 14), rows(9, 14), names=NAMES),
        "The first 12 of 14 columns; the others are left out.",
    ),
    "table samples": (lambda: plots.table_samples(rows(9, 2), rows(20, 2)), "column 1"),
    "table traversal": (
        lambda: plots.table_traversal(rows(3, 5, 14), np.linspace(-2, 2, 5), names=NAMES, scale=np.ones(14)),
        "change of the mean (data's sd)",
    ),
}


def words(figure: Figure) -> set[str]:
    found = figure.findobj(lambda artist: hasattr(artist, "get_text"))
    return {artist.get_text() for artist in found}


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_shows_something_and_says_what(name):
    draw, expected = FIGURES[name]
    figure = draw()
    picture = imread(io.BytesIO(plots.to_png_bytes(figure)))
    assert min(picture.shape[:2]) > 50
    assert picture.std() > 0.005
    assert expected in words(figure)


AXES = {
    "latent_map": lambda ax: plots.latent_map(rows(9, 2), ax=ax),
    "rate_per_latent": lambda ax: plots.rate_per_latent(rows(4), ax=ax),
    "training_curve": lambda ax: plots.training_curve(history(rate=3.0, distortion=70.0), ax=ax),
    "samples": lambda ax: plots.samples(rows(4, 4, 4), ax=ax),
    "grid": lambda ax: plots.grid(rows(2, 3, 4, 4), "ab", ax=ax),
    "reconstructions": lambda ax: plots.reconstructions(rows(2, 4, 4), rows(2, 4, 4), ax=ax),
    "traversal": lambda ax: plots.traversal(rows(2, 3, 4, 4), [-1, 0, 1], "ab", ax=ax),
    "interpolation": lambda ax: plots.interpolation(rows(1, 5, 4, 4), ax=ax),
    "heatmap": lambda ax: plots.heatmap(rows(2, 2), "ab", "cd", ax=ax),
    "forest": lambda ax: plots.forest([0.0], [1.0], [2.0], ["a"], ax=ax),
    "predictions": lambda ax: plots.predictions(rows(5), rows(5), rows(5) - 1, rows(5) + 1, ax=ax),
}


@pytest.mark.parametrize("name", AXES)
def test_a_figure_of_one_panel_is_drawn_on_given_axes(name):
    figure = Figure()
    left, right = figure.subplots(1, 2)
    assert AXES[name](right) is figure
    assert not left.has_data()
    assert right.has_data() or right.images
    assert len(figure.axes) == 2
    with pytest.raises(UserError, match="ax expects axes of matplotlib"):
        AXES[name]("here")


def test_a_figure_shows_itself_in_a_notebook_and_is_saved_as_vectors(tmp_path):
    figure = plots.forest([0.0], [1.0], [2.0], ["a"])
    assert figure._repr_png_().startswith(b"\x89PNG")
    starts = {"png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml"}
    for ending, start in starts.items():
        assert plots.save(figure, tmp_path / f"a.{ending}").read_bytes().startswith(start)
    with pytest.raises(UserError, match=r"a figure is written as png, pdf, svg, got 'a.jpg'"):
        plots.save(figure, tmp_path / "a.jpg")


def test_categories_are_drawn_by_their_names():
    x = np.array([[0.0, 1.0], [1.0, 2.0], [1.0, 3.0]])
    for figure in (
        plots.table_reconstructions(x, x, names=["sex", "age"], levels=[["F", "M"], None]),
        plots.table_samples(x, x, names=["sex", "age"], levels=[["F", "M"], None]),
    ):
        assert {"F", "M"} <= words(figure)
    assert "100 %" in words(plots.table_reconstructions(x, x, levels=[["F", "M"], None]))


WRONG = {
    "no history": lambda: plots.training_curve([]),
    "history without a bound": lambda: plots.training_curve([{"epoch": 1}]),
    "images that are rows": lambda: plots.samples(rows(4, 9)),
    "no images": lambda: plots.samples(rows(0, 4, 4)),
    "two channels": lambda: plots.samples(rows(4, 2, 4, 4)),
    "another shape": lambda: plots.reconstructions(rows(4, 4, 4), rows(4, 4, 5)),
    "labels short": lambda: plots.reconstructions(rows(4, 4, 4), rows(4, 4, 4), labels=[1]),
    "values short": lambda: plots.traversal(rows(2, 3, 4, 4), [0.0], ["a", "b"]),
    "titles short": lambda: plots.traversal(rows(2, 3, 4, 4), [0.0, 1, 2], ["a"]),
    "one step": lambda: plots.interpolation(rows(2, 1, 4, 4)),
    "ends short": lambda: plots.interpolation(rows(2, 3, 4, 4), ends=[("a", "b")]),
    "nowhere": lambda: plots.latent_map(np.full((3, 2), np.nan)),
    "three axes": lambda: plots.latent_map(rows(4, 3)),
    "map labels short": lambda: plots.latent_map(rows(4, 2), labels=[1, 2]),
    "names short": lambda: plots.latent_map(rows(4, 2), labels=[0, 1, 2, 3], names=["a", "b"]),
    "kl of rows": lambda: plots.rate_per_latent(rows(4, 2)),
    "active short": lambda: plots.rate_per_latent(rows(4), active=[True]),
    "table of images": lambda: plots.table_reconstructions(rows(4, 2, 2), rows(4, 2, 2)),
    "names of columns short": lambda: plots.table_samples(rows(4, 2), rows(4, 2), names=["a"]),
    "columns differ": lambda: plots.table_samples(rows(4, 2), rows(4, 3)),
    "z short": lambda: plots.table_traversal(rows(2, 3, 4), [0.0]),
    "scale short": lambda: plots.table_traversal(rows(2, 3, 4), [0.0, 1, 2], scale=np.ones(2)),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_fit_is_refused_with_what_was_expected(name):
    with pytest.raises(UserError, match="expected"):
        WRONG[name]()


def test_the_end_of_a_curve_is_readable_and_the_cut_is_said():
    figure = plots.training_curve(history(60))
    low, high = figure.axes[0].get_ylim()
    assert high - low < 40
    assert "lowest: −227" in words(figure)  # noqa: RUF001


def test_warm_up_is_shaded_and_the_best_epoch_marked():
    records = [{**record, "beta": min(1.0, i / 5)} for i, record in enumerate(history(20))]
    assert {"KL weight below 1", "best epoch: 17"} <= words(plots.training_curve(records, best_epoch=17))


def test_pixels_keep_their_values_and_missing_ones_are_seen():
    image = np.array([[0.0, 8.0], [16.0, np.nan]])
    (drawn,) = plots.samples(image[None], limits=(0, 16)).axes[0].images
    assert drawn.get_interpolation() == "nearest"
    np.testing.assert_allclose(drawn.get_array()[:, :, 0], [[0, 0.5], [1, drawing.MISSING[0]]])


def test_missing_entries_of_a_table_are_not_drawn():
    x = rows(6, 2)
    x[:, 0], x[0, 1] = np.nan, np.nan
    figure = plots.table_reconstructions(x, rows(6, 2))
    assert "nothing observed" in words(figure)
    assert len(figure.axes[1].collections[0].get_offsets()) == 5


def test_tensors_on_a_tape_and_in_half_precision_are_drawn():
    z = torch.randn(5, 2, requires_grad=True, dtype=torch.bfloat16)
    assert len(plots.latent_map(z).axes[0].collections[0].get_offsets()) == 5


def test_names_from_data_are_words_not_formulas():
    names = ["cost_$_per_$x^", "$"]
    figures = [
        plots.table_samples(rows(9, 2), rows(9, 2), names=names),
        plots.table_traversal(rows(1, 3, 2), [0, 1, 2], names=names, titles=[names[0]]),
        plots.latent_map(rows(4, 2), labels=[0.0, 1.0, np.nan, 1.0], names=names, axes=(names[0], "$")),
        plots.samples(rows(4, 4, 4), title=names[0]),
        plots.reconstructions(rows(2, 4, 4), rows(2, 4, 4), labels=names),
    ]
    for figure in figures:
        assert plots.to_png_bytes(figure)
        assert any("$" in text for text in words(figure))
    assert names[0] in words(figures[2])


def test_rows_and_rates_that_are_not_numbers_do_not_spoil_a_figure():
    z = rows(6, 2)
    z[0] = np.nan
    assert plots.to_png_bytes(plots.latent_map(z, labels=[0, 0, 0, 1, 1, 1]))
    assert plots.to_png_bytes(plots.rate_per_latent([1.0, np.nan, 0.0]))
    assert plots.to_png_bytes(plots.rate_per_latent([np.nan]))


def test_names_of_classes_do_not_cover_each_other():
    figure = plots.latent_map(np.tile([[0.0, 0.0], [1.0, 1.0]], (10, 1)), labels=["cat", "dog"] * 10)
    same = plots.latent_map(np.zeros((8, 2)), labels=[f"class {i}" for i in range(8)])
    assert {text.get_text() for text in figure.axes[0].texts} == {"cat", "dog"}
    heights = [text.get_position()[1] for text in same.axes[0].texts]
    assert len(set(heights)) == len(heights) == 3  # the others are in the legend
    assert "class 7" in words(same)


def test_a_file_is_written_whole_and_nothing_else_is_left(tmp_path):
    target = tmp_path / "figures" / "samples.png"
    assert plots.save(plots.samples(rows(4, 4, 4)), target) == target
    assert target.read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in target.parent.iterdir()] == ["samples.png"]
    atomic.write(tmp_path / "page.html", "old")
    with pytest.raises(UnicodeEncodeError):
        atomic.write(tmp_path / "page.html", "new \ud800")
    assert (tmp_path / "page.html").read_text() == "old"
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError):
        atomic.write(tmp_path / "folder", "a page")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["figures", "folder", "page.html"]


def page(words="words", **options):
    png = plots.to_png_bytes(plots.samples(rows(1, 4, 4)))
    table = ((words, "n"), [(words, 1.0), (None, 2)])
    widgets = (html.Widget("explorer", "one", {words: words}, words), html.Widget("map", words, {}, words))
    section = html.Section(words, words, table, (html.Picture(png, words, words),), widgets, words)
    verdicts = [html.Verdict("not", words, words)]
    return html.render(words, words, [(words, words, words)], [section], words, verdicts)


HOSTILE = """<script>alert(1)</script> " onerror='x' </style><img src="//evil"> {title} & **<b>** `<i>`"""


def test_a_page_escapes_everything_it_is_told():
    text = page(HOSTILE)
    assert text.count("<script") == 3  # the page's own, and the data of two widgets
    assert "<img src=" not in text
    assert "<b>" not in text
    assert "<i>" not in text
    assert text.count("</style>") == 1
    assert "onerror='" not in re.sub('<script type="application/json".*?</script>', "", text, flags=re.DOTALL)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "<code>&lt;i&gt;</code>" in text


def test_a_page_is_whole_without_a_network():
    text = page()
    assert "http://" not in text
    assert "https://" not in text
    assert re.findall(r"<(?:script src|link|iframe|object)\b", text) == []
    assert "url(" not in text
    assert "@import" not in text
    (picture,) = re.findall(r'src="data:image/png;base64,([^"]+)"', text)
    assert base64.b64decode(picture).startswith(b"\x89PNG")
    assert text.startswith("<!DOCTYPE html>")
    assert "prefers-color-scheme: dark" in text


def test_a_page_leads_to_its_sections_and_reads_its_tables():
    rows_of_numbers = [("ELBO", -99.234, "12 %"), ("p", 0.00123, None), ("whole", 3, "-1.5 nats")]
    table = (("name", "value", "share"), rows_of_numbers)
    sections = [html.Section("One"), html.Section("Two", "- a\n- **b**\n\nThe\nend.", table)]
    text = html.render("Title", "", [("evidence", "-98.2 ± 0.3 nats", "")], sections, "")
    assert '<a href="#s2">Two</a>' in text
    assert '<section id="s2">' in text
    assert "<ul><li>a</li><li><strong>b</strong></li></ul>\n<p>The end.</p>" in text
    cells = re.findall(r'<td class="number"[^>]*>(.*?)</td>', text)
    assert cells == ["−99.23", "12 %", "0.00123", "–", "3", "−1.5 nats"]  # noqa: RUF001
    assert '-98.2 ± 0.3 <span class="unit">nats</span>' in text


def test_a_page_refuses_a_ragged_table_and_a_picture_that_is_none():
    with pytest.raises(UserError, match="expected 2 cells as in the header, row 0 has 1"):
        html.render("", "", [], [html.Section("s", table=(("a", "b"), [(1,)]))], "")
    with pytest.raises(UserError, match="must be the bytes of a PNG"):
        html.render("", "", [], [html.Section("s", figures=((b"GIF89a", "", ""),))], "")
