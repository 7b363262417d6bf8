"""Pictures of programs: the graphical model of a pair, and how its guide draws."""

from ppl_vae.diagrams._draw import Diagram, draw

__all__ = ["Diagram", "draw"]
