"""Run folders: what is needed to rebuild a pair, its weights, its history. No pickle, no code."""

from ppl_vae.runs.folder import Run, open_run, save_run
from ppl_vae.runs.result import Best, Record, Result

__all__ = ["Best", "Record", "Result", "Run", "open_run", "save_run"]
