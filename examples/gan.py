"""The neighbours without evidence: a GAN, a Wasserstein GAN and a VAE with one generator, on digits.

All three draw z ~ N(0, I) and give a picture. Two of them are trained against a network that tells pictures from
rows, and say nothing of log p(x). All are judged by the same two-sample tests, and the VAE by its evidence besides.

    python examples/gan.py
"""

import pyro
import pyro.distributions as dist
import torch
from torch import nn

import ppl_vae
from ppl_vae.diagnostics import classifier_two_sample, mmd, sliced_wasserstein
from ppl_vae.guides import MeanField

LATENTS, PIXELS = 8, 64


def generator():
    """From z [..., 8] to the logits of 64 grey levels."""
    return nn.Sequential(nn.Linear(LATENTS, 128), nn.SiLU(), nn.Linear(128, 128), nn.SiLU(), nn.Linear(128, PIXELS))


class Model(pyro.nn.PyroModule):
    """z ~ N(0, I); every grey level is a continuous Bernoulli of the generator's logits."""

    def __init__(self):
        super().__init__()
        self.generator = generator()

    def forward(self, x=None, n=1):
        with pyro.plate("data", n if x is None else len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(LATENTS), 1.0).to_event(1))
            return pyro.sample("x", dist.ContinuousBernoulli(logits=self.generator(z)).to_event(1), obs=x)


def train_gan(rows, wasserstein, steps=1500, batch=64):
    """A generator whose pictures a critic cannot tell from rows: by its log odds, or by a Lipschitz critic (WGAN-GP).

    Sources: Goodfellow et al. 2014, arXiv 1406.2661; Gulrajani et al. 2017, arXiv 1704.00028.
    """
    made, critic = generator(), nn.Sequential(nn.Linear(PIXELS, 128), nn.LeakyReLU(0.2), nn.Linear(128, 1))
    first = torch.optim.Adam(made.parameters(), lr=5e-4, betas=(0.5, 0.9))
    second = torch.optim.Adam(critic.parameters(), lr=5e-4, betas=(0.5, 0.9))
    softplus = nn.functional.softplus
    for _ in range(steps):
        for _ in range(3 if wasserstein else 1):
            real, fake = rows[torch.randint(len(rows), (batch,))], pictures(made, batch).detach()
            if wasserstein:
                between = (fake + torch.rand(batch, 1) * (real - fake)).requires_grad_()
                (slope,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
                loss = critic(fake).mean() - critic(real).mean() + 10 * (slope.norm(dim=-1) - 1).square().mean()
            else:
                loss = softplus(-critic(real)).mean() + softplus(critic(fake)).mean()
            second.zero_grad()
            loss.backward()
            second.step()
        fake = critic(pictures(made, batch))
        loss = -fake.mean() if wasserstein else softplus(-fake).mean()
        first.zero_grad()
        loss.backward()
        first.step()
    return made


def pictures(made, n):
    """n pictures of a generator."""
    return torch.sigmoid(made(torch.randn(n, LATENTS)))


def main(epochs=100, steps=1500):
    torch.manual_seed(0)
    data = ppl_vae.load("digits")
    whole = torch.cat([split["x"] for split in (data.train, data.validation, data.test)]).flatten(1)
    grey = (whole + torch.rand(whole.shape)) / 17  # levels without gaps, which a classifier would see at once
    rows, held_out = grey[torch.randperm(len(grey))].split([1297, 500])
    model = Model()
    guide = MeanField(model, {"x": rows})
    ppl_vae.fit(model, guide, {"x": rows}, epochs=epochs, seed=0)
    samples = {  # as many as there are held-out rows, one after the other
        "GAN": pictures(train_gan(rows, wasserstein=False, steps=steps), len(held_out)),
        "Wasserstein GAN": pictures(train_gan(rows, wasserstein=True, steps=steps), len(held_out)),
        "VAE, means": torch.sigmoid(model.generator(torch.randn(len(held_out), LATENTS))),
        "VAE, draws": model(n=len(held_out)),
        "training rows": rows[torch.randperm(len(rows))[: len(held_out)]],
    }
    print(f"{'':17} MMD    p      classifier p      sliced W1 p")
    found = {}
    for name, drawn in samples.items():
        tests = [test(drawn.detach(), held_out) for test in (mmd, classifier_two_sample, sliced_wasserstein)]
        found[name] = [(test.statistic, test.p_value) for test in tests]
        print(f"{name:17}", "  ".join(f"{value:6.3f} {p:.3f}" for value, p in found[name]))
    evidence = ppl_vae.evaluate(model, guide, {"x": held_out}, particles=200, seed=0).summary()
    print(f"log p(x) of the VAE: {-evidence['nll']:.1f} nats a row; the GANs have none")
    return samples, found


if __name__ == "__main__":
    main()
