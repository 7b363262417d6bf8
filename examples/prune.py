"""A search that gives up early: Optuna prunes trainings through `on_epoch`, which stops one by returning False.

    python examples/prune.py                  # needs optuna; takes half a minute

A training is pruned where its bound on validation rows is below the median of the others at the same epoch.
"""

import optuna

import ppl_vae
from ppl_vae.guides import MeanField
from ppl_vae.models import VAE

EPOCHS = 20


def objective(trial, data):
    import torch

    torch.manual_seed(0)
    model = VAE(data, latent_dim=trial.suggest_int("latent_dim", 1, 16), hidden=(32,))
    pruned = []

    def on_epoch(record):
        trial.report(record["validation"], record["epoch"])
        pruned[:] = [trial.should_prune()]
        return not pruned[0]  # False ends the training

    lr = trial.suggest_float("lr", 1e-4, 1e-1, log=True)
    result = ppl_vae.fit(model, MeanField(model, hidden=(32,)), data, epochs=EPOCHS, lr=lr, on_epoch=on_epoch)
    if pruned[-1]:
        raise optuna.TrialPruned
    return result.best.bound


def main(trials=12):
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    data = ppl_vae.load("digits")
    pruner = optuna.pruners.MedianPruner(n_startup_trials=3, n_warmup_steps=2)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=0), pruner=pruner)
    study.optimize(lambda trial: objective(trial, data), n_trials=trials)
    states = [trial.state.name for trial in study.trials]
    epochs = sum(len(trial.intermediate_values) for trial in study.trials)
    print(f"{states.count('COMPLETE')} trainings finished, {states.count('PRUNED')} were pruned")
    print(f"{epochs} epochs instead of {trials * EPOCHS}")
    print(f"best bound {study.best_value:.1f} nats, with {study.best_params}")
    return study


if __name__ == "__main__":
    main()
