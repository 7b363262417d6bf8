"""Data of the further posteriors: published tables, and simulated ones under fixed seeds; numpy alone.

Sources: BUGS Examples volumes 1 and 2 (pumps, dugongs, stacks, beetles, salm, air, blocker), Gelman et al. 2013, ch. 5
(tumors), Freireich et al. 1963 (leukemia), Jarrett 1979 (coal).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np


def pumps() -> dict[str, Any]:
    return {
        "t": [94.3, 15.7, 62.9, 126, 5.24, 31.4, 1.05, 1.05, 2.1, 10.5],
        "x": [5, 1, 5, 14, 3, 19, 1, 1, 4, 22],
    }


def dugongs() -> dict[str, Any]:
    x = "1 1.5 1.5 1.5 2.5 4 5 5 7 8 8.5 9 9.5 9.5 10 12 12 13 13 14.5 15.5 15.5 16.5 17 22.5 29 31.5"
    y = (
        "1.80 1.85 1.87 1.77 2.02 2.27 2.15 2.26 2.47 2.19 2.26 2.40 2.39 2.41 2.50 2.32 2.32 2.43 2.47 2.56 "
        "2.65 2.47 2.64 2.56 2.70 2.72 2.57"
    )
    return {"x": _numbers(x), "y": _numbers(y)}


def stacks() -> dict[str, Any]:
    air = "80 80 75 62 62 62 62 62 58 58 58 58 58 58 50 50 50 50 50 56 70"
    water = "27 27 25 24 22 23 24 24 23 18 18 17 18 19 18 18 19 19 20 20 20"
    acid = "89 88 90 87 87 87 93 93 87 80 89 88 82 93 89 86 72 79 80 82 91"
    loss = "42 37 37 28 18 18 19 20 15 14 14 13 11 12 8 7 8 8 9 15 15"
    x = np.array([_numbers(air), _numbers(water), _numbers(acid)]).T
    return {"x": ((x - x.mean(0)) / x.std(0)).round(4).tolist(), "y": _numbers(loss)}


def beetles() -> dict[str, Any]:
    return {
        "dose": [1.6907, 1.7242, 1.7552, 1.7842, 1.8113, 1.8369, 1.8610, 1.8839],
        "n": [59, 60, 62, 56, 63, 59, 62, 60],
        "r": [6, 13, 18, 28, 52, 53, 61, 60],
    }


def salm() -> dict[str, Any]:
    y = [[15, 21, 29], [16, 18, 21], [16, 26, 33], [27, 41, 60], [33, 38, 41], [20, 27, 42]]
    return {"dose": [d for d in (0, 10, 33, 100, 333, 1000) for _ in range(3)], "y": [v for row in y for v in row]}


def air() -> dict[str, Any]:
    return {"z": [10, 30, 50], "n": [48, 34, 21], "y": [21, 20, 15]}


def blocker() -> dict[str, Any]:
    return {
        "rt": _numbers("3 7 5 102 28 4 98 60 25 138 64 45 9 57 25 33 28 8 6 32 27 22"),
        "nt": _numbers("38 114 69 1533 355 59 945 632 278 1916 873 263 291 858 154 207 251 151 174 209 391 680"),
        "rc": _numbers("3 14 11 127 27 6 152 48 37 188 52 47 16 45 31 38 12 6 3 40 43 39"),
        "nc": _numbers("39 116 93 1520 365 52 939 471 282 1921 583 266 293 883 147 213 122 154 134 218 364 674"),
    }


def tumors() -> dict[str, Any]:
    y = (
        "0 0 0 0 0 0 0 0 0 0 0 0 0 0 1 1 1 1 1 1 1 1 2 2 2 2 2 2 2 2 2 1 5 2 5 3 2 7 7 3 3 2 9 10 4 4 4 4 4 4 "
        "4 10 4 4 4 5 11 12 5 5 6 5 6 6 6 6 16 15 15 9 4"
    )
    n = (
        "20 20 20 20 20 20 20 19 19 19 19 18 18 17 20 20 20 20 19 19 18 18 25 24 23 20 20 20 20 20 20 10 49 "
        "19 46 27 17 49 47 20 20 13 48 50 20 20 20 20 20 20 20 48 19 19 19 22 46 49 20 20 23 19 22 20 20 20 "
        "52 46 47 24 14"
    )
    return {"y": _numbers(y), "n": _numbers(n)}


def leukemia() -> dict[str, Any]:
    treated = "6 6 6 6 7 9 10 10 11 13 16 17 19 20 22 23 25 32 32 34 35"
    ended = "1 1 1 0 1 0 1 0 0 1 1 0 0 0 1 1 0 0 0 0 0"
    placebo = "1 1 2 2 3 4 4 5 5 8 8 8 8 11 11 12 12 15 17 22 23"
    return {
        "t": _numbers(treated) + _numbers(placebo),
        "died": _numbers(ended) + [1.0] * 21,
        "treated": [1.0] * 21 + [0.0] * 21,
    }


def coal() -> dict[str, Any]:
    y = (
        "4 5 4 0 1 4 3 4 0 6 3 3 4 0 2 6 3 3 5 4 5 3 1 4 4 1 5 5 3 4 2 5 2 2 3 4 2 1 3 2 2 1 1 1 1 3 0 0 1 0 "
        "1 1 0 0 3 1 0 3 2 2 0 1 1 1 0 1 0 1 0 0 0 2 1 0 0 0 1 1 0 2 3 3 1 1 2 1 1 1 1 2 4 2 0 0 1 4 0 0 0 1 "
        "0 0 0 0 0 1 0 0 1 0 1"
    )
    return {"y": _numbers(y)}


def garch() -> dict[str, Any]:
    rng, y, s = np.random.default_rng(1), [], 1.0
    for e in rng.normal(size=200):
        s = np.sqrt(0.5 + 0.3 * (y[-1] - 0.2) ** 2 + 0.4 * s**2) if y else 1.0
        y.append(0.2 + s * e)
    return {"y": np.round(y, 4).tolist(), "sigma1": 1.0}


def arma() -> dict[str, Any]:
    rng, y, before = np.random.default_rng(2), [0.5], 0.5
    for e in 0.4 * rng.normal(size=199):
        y.append(0.3 + 0.7 * y[-1] + 0.5 * before + e)
        before = e
    return {"y": np.round(y, 4).tolist()}


def wells() -> dict[str, Any]:
    rng = np.random.default_rng(3)
    dist, arsenic = rng.gamma(1.5, 0.32, 1000), 0.5 + rng.gamma(1.2, 1.0, 1000)
    p = 1 / (1 + np.exp(-(-0.15 - 0.6 * dist + 0.55 * arsenic - 0.18 * dist * arsenic)))
    return {
        "dist": dist.round(3).tolist(),
        "arsenic": arsenic.round(3).tolist(),
        "switched": (rng.random(1000) < p).astype(int).tolist(),
    }


def choices() -> dict[str, Any]:
    rng = np.random.default_rng(4)
    x, b = rng.normal(size=(150, 3)), np.array([[0.0, 0, 0], [1.0, -0.5, 0.3], [-0.8, 1.2, 0.0]])
    logits = x @ b.T + np.array([0.0, 0.5, -0.5])
    y = (logits + rng.gumbel(size=logits.shape)).argmax(1)
    return {"x": x.round(3).tolist(), "y": y.tolist()}


def counts() -> dict[str, Any]:
    rng = np.random.default_rng(5)
    x = rng.normal(size=(120, 2))
    mu = np.exp(1.0 + x @ np.array([0.6, -0.4]))
    return {"x": x.round(3).tolist(), "y": rng.poisson(mu * rng.gamma(1.5, 1 / 1.5, 120)).tolist()}


def ordinal() -> dict[str, Any]:
    rng = np.random.default_rng(6)
    x = rng.normal(size=(150, 2))
    level = x @ np.array([1.0, -0.7]) + rng.normal(size=150)
    return {"x": x.round(3).tolist(), "y": np.digitize(level, [-1.2, 0.1, 1.4]).tolist()}


def horseshoe() -> dict[str, Any]:
    rng = np.random.default_rng(7)
    x, b = rng.normal(size=(60, 10)), np.array([2.0, -1.0, 0.5] + 7 * [0.0])
    return {"x": x.round(3).tolist(), "y": (x @ b + rng.normal(size=60)).round(3).tolist()}


def cafes() -> dict[str, Any]:
    rng, cafe = np.random.default_rng(8), np.repeat(np.arange(20), 10)
    each = rng.multivariate_normal([3.5, -1.0], [[1.0, -0.35], [-0.35, 0.25]], 20)
    afternoon = np.tile([0.0, 1.0], 100)
    wait = each[cafe, 0] + each[cafe, 1] * afternoon + 0.5 * rng.normal(size=200)
    return {"cafe": cafe.tolist(), "afternoon": afternoon.tolist(), "wait": wait.round(3).tolist()}


def crossed() -> dict[str, Any]:
    rng, rater, item = np.random.default_rng(9), np.tile(np.arange(6), 24), np.repeat(np.arange(24), 6)
    y = 23 + 1.9 * rng.normal(size=6)[rater] + 0.85 * rng.normal(size=24)[item] + 0.55 * rng.normal(size=144)
    return {"rater": rater.tolist(), "item": item.tolist(), "y": y.round(3).tolist()}


def gp_class() -> dict[str, Any]:
    rng, x = np.random.default_rng(10), np.linspace(-2, 2, 30)
    return {"x": x.round(4).tolist(), "y": (rng.random(30) < 1 / (1 + np.exp(-3 * np.sin(2 * x)))).astype(int).tolist()}


def mix_collapse() -> dict[str, Any]:
    rng = np.random.default_rng(11)
    y = np.where(rng.random(300) < 0.4, -2.5 + rng.normal(size=300), 2.0 + 0.7 * rng.normal(size=300))
    return {"y": y.round(4).tolist()}


def zip_counts() -> dict[str, Any]:
    rng = np.random.default_rng(12)
    x = rng.normal(size=150)
    y = np.where(rng.random(150) < 0.35, 0, rng.poisson(np.exp(0.8 + 0.5 * x)))
    return {"x": x.round(3).tolist(), "y": y.tolist()}


def volatility() -> dict[str, Any]:
    rng, h = np.random.default_rng(13), [0.0]
    for e in rng.normal(size=99):
        h.append(-0.5 + 0.9 * (h[-1] + 0.5) + 0.35 * e)
    return {"y": (np.exp(np.array(h) / 2) * rng.normal(size=100)).round(4).tolist()}


def students() -> dict[str, Any]:
    rng = np.random.default_rng(14)
    x = rng.normal(size=80)
    return {"x": x.round(3).tolist(), "y": (1 + 2 * x + 0.7 * rng.standard_t(3, size=80)).round(3).tolist()}


def _numbers(text: str) -> list[float]:
    return [float(v) for v in text.split()]


ALL: dict[str, Callable[[], dict[str, Any]]] = {
    f.__name__: f
    for f in (
        pumps, dugongs, stacks, beetles, salm, air, blocker, tumors, leukemia, coal, garch, arma, wells, choices,
        counts, ordinal, horseshoe, cafes, crossed, gp_class, mix_collapse, zip_counts, volatility, students,
    )
}  # fmt: skip
