"""Lines get what curves say of their thresholds, stage by stage."""

import jax.numpy as jnp
import numpy as np

from vrex_jax.codesign import accuracy_kept
from vrex_jax.codesign import accuracy_points as points_lib
from vrex_jax.codesign import curves as curves_lib

SHAPE = (3, 2, 1)


def test_a_line_takes_the_curve_of_its_own_hamming_threshold():
  """Kept share r, mass √r (straight between grid points), 8 or 2 a cluster."""
  grid = jnp.asarray([0.0, 0.25, 1.0])
  choices = tuple(
    curves_lib.StaticChoice(hamming_threshold=one) for one in (4, 7)
  )
  wide = lambda values: jnp.broadcast_to(values, (2, *SHAPE, 3))
  curves = curves_lib.Curves(
    choices=choices,
    grid=grid,
    kept=wide(grid),
    mass=wide(jnp.sqrt(grid)),
    recall=None,
    groups=jnp.asarray([0.5, 0.125])[:, None, None] * jnp.ones((2, 2, 1)),
    run_tokens=wide(grid),
    buckets=wide(grid),
    worst_buckets=wide(grid),
  )
  ratio = np.array([0.0, 0.25, 1.0])[:, None, None] * np.ones(SHAPE)
  line = {"hamming_threshold": "7"} | points_lib.columns(ratio=ratio)
  (found,) = accuracy_kept.with_kept([line], curves)
  read = lambda name: points_lib.table_of(found, name)[:, 0, 0]
  np.testing.assert_allclose(read("kept"), [0.0, 0.25, 1.0], atol=1e-6)
  np.testing.assert_allclose(read("mass"), [0.0, 0.5, 1.0], atol=1e-6)
  np.testing.assert_allclose(read("size"), 8.0)
