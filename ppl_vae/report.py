"""The report of a run: its numbers in plain words and its figures, as one self-contained page."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from ppl_vae import plots
from ppl_vae.atomic import write
from ppl_vae.data import Data, Split
from ppl_vae.html import Section, render
from ppl_vae.latents import ACTIVE, Latents
from ppl_vae.report_words import headline, name_of, number, what_was_trained
from ppl_vae.runs import Run
from ppl_vae.view import View, look

__all__ = ["write_report"]
