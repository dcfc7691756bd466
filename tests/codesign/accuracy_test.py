"""The accuracy model: its limits, its derivatives, and that a fit finds it."""

LAYERS, HEADS = 2, 2
SHAPE = (3, LAYERS, HEADS)
