"""The page of a run in a browser: what it decodes, what moves, what it asks for, how wide it is."""

import shutil
import subprocess
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from browser import CHROMIUM, Browser

import ppl_vae
from ppl_vae.guides import MeanField
from ppl_vae.models import CVAE, GMVAE, M2, VAE, Hierarchical, Regression
from ppl_vae.prediction.coding import decode, decode_columns
from ppl_vae.reporting import write_report
from ppl_vae.reporting._network import Unsupported, network_of, read
from ppl_vae.reporting.view import look

NPM = shutil.which("npm")
in_a_browser = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")]


def table(rows=120):
    draw = np.random.default_rng(0)
    first = draw.normal(size=rows)
    return pd.DataFrame(
        {
            "real": 10 + 3 * first + draw.normal(size=rows),
            "price": np.exp(first / 2 + draw.normal(size=rows) / 4),
            "visits": draw.poisson(np.exp(1 + first / 2)),
            "smoker": draw.random(rows) < 0.4,
            "colour": np.where(first > 0.5, "red </script>", np.where(first < -0.5, "blue", "green")),
        }
    )


@pytest.fixture(scope="module")
def axe(tmp_path_factory):
    """The script of axe-core, which npm fetches; without a registry the test is left out."""
    folder = tmp_path_factory.mktemp("npm")
    command = [NPM, "install", "--prefix", str(folder), "--no-audit", "--no-fund", "axe-core@4"]
    if subprocess.run(command, capture_output=True, timeout=120).returncode:
        pytest.skip("npm cannot fetch axe-core")
    return (folder / "node_modules" / "axe-core" / "axe.min.js").read_text(encoding="utf-8")


def trained(data, folder, model, evaluated=False):
    result = ppl_vae.fit(model, MeanField(model, hidden=(16,)), data, epochs=2)
    run = ppl_vae.open_run(result.save(folder / "run"))
    found = ppl_vae.evaluate(result, data.test, particles=50) if evaluated else None
    page = write_report(run, data, None if found is None else found.summary(), found)
    return SimpleNamespace(data=data, run=run, page=page, model=run.pair.model.public)


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    data = ppl_vae.load("digits")
    torch.manual_seed(0)
    model = VAE(data, latent_dim=4, hidden=(32, 16), activation="gelu")
    return trained(data, tmp_path_factory.mktemp("digits"), model, evaluated=True)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    data = ppl_vae.load(table())
    torch.manual_seed(0)
    return trained(data, tmp_path_factory.mktemp("mixed"), VAE(data, latent_dim=3, hidden=(8,)))


LIKELIHOODS = {
    "usual": {},
    "others": {"real": "student_t", "price": "normal:per_row=true", "visits": "poisson", "smoker": "categorical"},
}


@pytest.mark.parametrize("chosen", LIKELIHOODS)
@pytest.mark.parametrize("activation", ["gated", "tanh"])
def test_a_network_in_the_page_is_read_as_the_model_says(chosen, activation):
    from ppl_vae.likelihoods import Columns

    data = ppl_vae.load(table())
    torch.manual_seed(0)
    model = VAE(data, likelihood=Columns(**LIKELIHOODS[chosen]), latent_dim=3, hidden=(8,), activation=activation)
    guide = MeanField(model, hidden=(8,))
    view = look(ppl_vae.programs.program.Pair(model, guide).eval(), data, data.schema)
    found = network_of(view, view.latents[0], range(10))
    z = torch.randn(20, 3)
    mine = read(found, z.numpy())
    batch = {n: v[:20] for n, v in view.batch.items()}
    said = decode_columns(model, {"z": z}, batch, view.columns)
    for column, values in zip(view.columns, said.T, strict=True):
        means = mine[column.name].argmax(1) if column.kind == "categorical" else mine[column.name][:, 0]
        np.testing.assert_allclose(means, values.numpy(), rtol=1e-4, atol=1e-4)


WITH_LABELS = {
    "latent": lambda data: M2(data, latent_dim=3, hidden=(8,)),
    "condition": lambda data: CVAE(data, latent_dim=3, hidden=(8,)),
    "cluster": lambda data: GMVAE(data, latent_dim=3, hidden=(8,)),
    "layers": lambda data: Hierarchical(data, latent_dims=(3, 2), hidden=(8,)),
}


@pytest.mark.parametrize("kind", WITH_LABELS)
def test_labels_and_layers_are_decoded_in_the_page_as_the_model_says(kind):
    data = ppl_vae.load("digits", labels=100 if kind == "latent" else None)
    torch.manual_seed(0)
    model = WITH_LABELS[kind](data)
    view = look(ppl_vae.programs.program.Pair(model, MeanField(model, hidden=(8,))).eval(), data, data.schema)
    latents = next(each for each in view.latents if each.site in model.decoded)
    found = network_of(view, latents, range(6))
    z = torch.randn(5, 3)
    batch = {n: v[:5] for n, v in view.batch.items()}
    for level in range(10):
        if "y" in model.decoded:
            mine = read(found, z.numpy(), level)["x"]
            label = torch.full((5,), level)
            latent = {"z": z} | ({} if "y" in batch else {"y": label})
            said = decode(model, latent, {**batch, "y": label})
        else:
            assert "choice" not in found
            mine = read(found, z.numpy())["x"]
            said = decode(model, {latents.site: z}, batch)
        np.testing.assert_allclose(mine, said.reshape(5, -1), rtol=1e-4, atol=1e-3)
    for other in view.latents:
        if other.site not in model.decoded:
            with pytest.raises(Unsupported, match="decodes other things"):
                network_of(view, other, range(4))


def test_what_a_page_cannot_decode_it_says(digits):
    data = digits.data
    for model, why in (
        (VAE(data, latent_dim=2, decoder="conv:width=4"), "the decoder is Conv"),
        (VAE(data, latent_dim=2, hidden=(2000,)), "parameters"),
        (VAE(data, latent_dim=2, likelihood="ordinal"), "the likelihood of x is Ordinal"),
    ):
        view = look(ppl_vae.programs.program.Pair(model, MeanField(model, hidden=(8,))).eval(), data, data.schema)
        with pytest.raises(Unsupported, match=why):
            network_of(view, view.latents[0], range(4))


def test_a_decoder_that_does_more_than_its_layers_is_not_written():
    data = ppl_vae.load({"x": torch.randn(60, 3)})

    class Doubled(torch.nn.Sequential):
        def forward(self, z):
            return 2 * super().forward(z)

    model = VAE(data, latent_dim=2, decoder=Doubled(torch.nn.Linear(2, 3)))
    view = look(ppl_vae.programs.program.Pair(model, MeanField(model, hidden=(8,))).eval(), data, data.schema)
    with pytest.raises(Unsupported, match="its layers alone do not give the means of the model"):
        network_of(view, view.latents[0], range(4))


def test_the_numbers_of_a_response_are_those_of_their_definitions():
    from sklearn.metrics import r2_score, root_mean_squared_error

    from ppl_vae.reporting._response import Predicted

    draw = np.random.default_rng(0)
    y, mean = draw.normal(size=50), draw.normal(size=50)
    found = Predicted("y", *(torch.from_numpy(v) for v in (y, mean, mean - 1, mean + 1)))
    assert found.r2 == pytest.approx(r2_score(y, mean))
    assert found.rmse[0] == pytest.approx(root_mean_squared_error(y, mean))
    draws = [np.sqrt(np.mean((y - mean)[draw.integers(0, 50, 50)] ** 2)) for _ in range(4000)]
    assert found.rmse[1] == pytest.approx(np.std(draws), rel=0.1)  # bootstrap
    assert found.covered[0] == pytest.approx(np.mean(np.abs(y - mean) <= 1))


class TestInABrowser:
    pytestmark = in_a_browser

    def test_the_page_decodes_as_torch_does(self, digits):
        z = torch.randn(8, 4, generator=torch.manual_seed(1)) * 2
        with Browser() as browser:
            browser.open(digits.page)
            found = browser.evaluate(f"{z.tolist()}.map((z) => explorers.z.decode(z))")
            assert browser.errors == []
            assert [r for r in browser.requests if not r.startswith(("data:", "file:"))] == []
        logits = digits.model.decoder(z).reshape(8, 64, 17)
        means = (logits.softmax(-1) * torch.arange(17.0)).sum(-1)
        assert (torch.tensor(found) - means).abs().max() / 16 < 1e-4

    def test_the_page_of_a_table_decodes_as_torch_does(self, mixed):
        z = torch.randn(8, 3, generator=torch.manual_seed(1))
        with Browser() as browser:
            browser.open(mixed.page)
            found = np.array(browser.evaluate(f"{z.tolist()}.map((z) => explorers.z.decode(z))"))
            assert browser.errors == []
            assert "red </script>" in browser.evaluate("document.body.innerText")
        sites = mixed.model.likelihood.sites(mixed.model.decoder(z))
        means = [sites[n].probs if n == "colour" else sites[n].mean[:, None] for n in sites]
        np.testing.assert_allclose(found, torch.cat(means, 1).detach().numpy(), rtol=1e-4, atol=1e-4)

    @pytest.mark.slow
    def test_a_label_is_chosen_beside_the_sliders(self, tmp_path):
        data = ppl_vae.load("digits", labels=200)
        model = M2(data, latent_dim=3, hidden=(16,))
        found = trained(data, tmp_path, model)
        run, page = found.run, found.page
        z = torch.randn(4, 3, generator=torch.manual_seed(1))
        with Browser() as browser:
            browser.open(page)
            assert browser.evaluate("document.querySelectorAll('.explorer').length") >= 1
            for level in (0, 7):
                found = browser.evaluate(f"{z.tolist()}.map((z) => explorers.z.decode(z, {level}))")
                label = torch.full((4,), level)
                means = decode(run.model, {"z": z}, {**data.test.rows(slice(0, 4)).batch(), "y": label})
                assert (torch.tensor(found) - means.reshape(4, -1)).abs().max() / 16 < 1e-4
            pixels = "document.querySelector('.explorer canvas').toDataURL()"
            last = "[...document.querySelectorAll('.begin select')].at(-1)"
            choose = "(() => {{ const chosen = " + last + "; chosen.value = {}; chosen.onchange(); }})()"
            seen = set()
            for level in range(10):
                browser.evaluate(choose.format(level))
                seen.add(browser.evaluate(pixels))
            assert len(seen) == 10
            assert browser.errors == []

    def test_sliders_move_the_picture_by_mouse_and_keyboard(self, digits):
        pixels = "document.querySelector('.explorer canvas').toDataURL()"
        with Browser() as browser:
            browser.open(digits.page)
            before = browser.evaluate(pixels)
            browser.evaluate("document.querySelector('.knobs input').focus()")
            for _ in range(30):
                browser.key("ArrowRight", 39)
            moved = browser.evaluate(pixels)
            assert moved != before
            browser.evaluate(
                "[...document.querySelectorAll('button')].find((b) => b.textContent.startsWith('Mean')).click()"
            )
            assert browser.evaluate("[...document.querySelectorAll('.knobs input')].map((i) => i.value)") == ["0"] * 4
            assert browser.errors == []

    def test_the_map_shows_the_row_that_is_pointed_at(self, digits):
        with Browser(1100, 900) as browser:
            browser.open(digits.page)
            browser.evaluate(
                "document.querySelector('canvas.map').scrollIntoView({block: 'center', behavior: 'instant'})"
            )
            box = browser.evaluate(
                "(({x, y, width, height}) => [x, y, width, height])"
                "(document.querySelector('canvas.map').getBoundingClientRect())"
            )
            said = set()
            for k in range(40):
                x, y = box[0] + box[2] * (0.3 + 0.01 * k), box[1] + box[3] / 2
                browser.mouse("mouseMoved", x, y)
                said.add(browser.evaluate("document.querySelector('.about').innerText").split("\n")[0])
            rows = [words for words in said if words.startswith("test row")]
            assert len(rows) > 3
            assert all("k-hat" in words and "log p(x)" in words for words in rows)
            browser.evaluate("document.querySelector('.reading input').focus()")
            browser.key("ArrowRight", 39)
            assert browser.evaluate("document.querySelectorAll('.about canvas').length") == 2
            assert browser.evaluate("document.querySelector('.reading input').getAttribute('aria-valuetext')") in (
                browser.evaluate("document.querySelector('.about').innerText")
            )
            assert browser.errors == []

    def test_tables_are_sorted_and_copied(self, digits):
        column = "[...document.querySelector('main table.stacked').tBodies[0].rows].map((r) => r.cells[1].textContent)"
        with Browser() as browser:
            browser.open(digits.page)
            browser.evaluate("document.querySelector('table.stacked th.number button').click()")
            values = [float(v.replace("\N{MINUS SIGN}", "-").split()[0]) for v in browser.evaluate(column)]
            assert values == sorted(values, reverse=True)
            text = browser.evaluate("tables.latex(tables.read(document.querySelector('main table')))")
            assert text.startswith("\\begin{tabular}{ll}\n\\toprule\npart & in this run \\\\")
            said = browser.evaluate("tables.markdown({head: ['a|b', 'n'], numeric: [false, true], rows: [['x', '1']]})")
            assert said == "| a\\|b | n |\n| --- | ---: |\n| x | 1 |\n"

    @pytest.mark.parametrize("which", ["digits", "mixed"])
    def test_nothing_is_cut_on_a_phone(self, which, request):
        page = request.getfixturevalue(which).page
        with Browser(420, 900) as browser:
            browser.open(page)
            browser.evaluate("document.querySelectorAll('details').forEach((d) => (d.open = true))")
            assert browser.evaluate("document.documentElement.scrollWidth") <= 420
            over = "[...document.querySelectorAll('main *')].filter((e) => e.getBoundingClientRect().right > 421"
            over += " && !e.closest('dialog') && e.getBoundingClientRect().left >= 0).length"
            assert browser.evaluate(over) == 0
            inner = "[...document.querySelectorAll('.wide')].filter((e) => e.scrollWidth > e.clientWidth + 1).length"
            assert browser.evaluate(inner) == 0

    def test_a_verdict_leads_to_its_reason(self, digits):
        with Browser() as browser:
            browser.open(digits.page)
            targets = browser.evaluate(
                "[...document.querySelectorAll('.verdicts a')].map((a) => a.getAttribute('href'))"
            )
            assert len(targets) >= 3
            assert browser.evaluate(f"{targets}.every((t) => document.querySelector(t) !== null)")

    @pytest.mark.skipif(NPM is None, reason="needs npm")
    @pytest.mark.parametrize("which", ["digits", "mixed"])
    def test_axe_finds_nothing(self, which, request, axe):
        page = request.getfixturevalue(which).page
        for width, dark in ((1100, False), (420, True)):
            with Browser(width, 900, dark=dark) as browser:
                browser.open(page)
                browser.evaluate("document.querySelectorAll('details').forEach((d) => (d.open = true))")
                browser.evaluate(f"{axe};0")
                asked = "axe.run().then((r) => r.violations.map((v) => [v.id, v.nodes[0].html.slice(0, 200)]))"
                assert browser.evaluate(asked) == []

    def test_a_response_is_moved_with_the_rows(self, tmp_path):
        draw = np.random.default_rng(0)
        x = draw.normal(size=(120, 4))
        data = ppl_vae.load({"x": x, "y": x[:, 0] + 0.1 * draw.normal(size=120)}, kinds={"y": "real"})
        torch.manual_seed(0)
        run = trained(data, tmp_path, Regression(data, latent_dim=2, hidden=(8,)))
        with Browser() as browser:
            browser.open(run.page)
            assert browser.evaluate("explorers.z.decode([0, 0]).length") == 5
            text = browser.evaluate("document.body.innerText")
            assert "R² of y" in text
            assert "Coverage of 90 % intervals" in text
            assert browser.errors == []
