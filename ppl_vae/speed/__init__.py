"""A step as fast as it pays to make it, and the same numbers all the same.

`acceleration` chooses for a training step, `lanes` for anything that runs often: eager, captured as one flat graph
(`capture`; `graph` for a step and its gradients), or compiled (`compiler`, after `factoring` took products out of it).
`memory` and `precision` are the two settings of a machine that a run may change. Why, and what
was measured: docs/design/007.
"""
