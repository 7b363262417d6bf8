"""How a result looks at a prompt and in a notebook: a screen of numbers in words, never all of its tensors."""

from ppl_vae.display.displayed import Displayed

__all__ = ["Displayed"]
