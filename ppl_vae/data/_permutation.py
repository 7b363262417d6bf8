"""A random order of very many rows as a function of a row's number and a seed, without a list of them."""

from __future__ import annotations

import numpy as np

__all__ = ["Permutation"]

ROUNDS = 4
AT_ONCE = 2**14


class Permutation:
    """A permutation of 0 .. n - 1, of which no more than what is asked for is computed.

    A balanced Feistel network over the next even power of two, walked on until it is below n. Source: Luby & Rackoff
    1988; Black & Rogaway 2002, Ciphers with arbitrary finite domains (cycle walking).

    Example:
        >>> order = Permutation(10, seed=0)
        >>> sorted(order(np.arange(10)).tolist()) == list(range(10))
        True
        >>> order(np.array([7])) == order(np.arange(10))[7]
        array([ True])
    """

    def __init__(self, n: int, seed: int) -> None:
        self.n = n
        self.half = max(1, -(-max(n - 1, 1).bit_length() // 2))
        self.keys = np.random.default_rng(seed).integers(1, 2**32, size=(ROUNDS, 2), dtype=np.uint64) | np.uint64(1)

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """The places of these rows."""
        found = np.concatenate([self._once(some) for some in np.array_split(rows, -(-len(rows) // AT_ONCE) or 1)])
        outside = np.flatnonzero(found >= self.n)
        while len(outside):
            walked = self._once(found[outside])
            found[outside] = walked
            outside = outside[walked >= self.n]
        return found.astype(np.int64)

    def _once(self, x: np.ndarray) -> np.ndarray:
        half, mask = np.uint64(self.half), np.uint64(2**self.half - 1)
        x = x.astype(np.uint64)
        left, right = x >> half, x & mask
        for multiplier, add in self.keys:
            mixed = right * multiplier
            mixed += add
            mixed *= mixed  # the middle of a square is a function of all bits
            mixed >>= np.uint64(24)
            mixed &= mask
            mixed ^= left
            left, right = right, mixed
        left <<= half
        left |= right
        return left
