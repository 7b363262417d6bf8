"""A step as fast as it pays to make it, and the same numbers all the same.

`modes` chooses how anything that runs often is run: eager, captured as one flat graph (`capture`), or compiled
(`compiler`, after `factoring` took products out of it), and `proof` says whether the numbers are the same; a training
step's own graph is made in `training`. `precision` is the one setting of a machine that a run may change. Why, and what
was measured: docs/design/007.
"""
