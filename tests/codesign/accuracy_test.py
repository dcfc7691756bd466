"""The accuracy model: its limits, its derivatives, and that a fit finds it."""

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies

from vrex_jax.codesign import accuracy
from vrex_jax.codesign import accuracy_errors
from vrex_jax.codesign import accuracy_points as points_lib

LAYERS, HEADS = 2, 2
SHAPE = (3, LAYERS, HEADS)
