"""What is fitted is what is in use, and it is no better than it says."""

import numpy as np
import pytest

from tests.hwmodel import points
from vrex_jax.hwmodel import fitting
from vrex_jax.hwmodel import paper


@pytest.fixture(scope="module")
def known():
  return fitting.table(points.platform(), points.MODEL, points=257)


@pytest.fixture(scope="module")
def chosen(known):
  return fitting.fit(fitting.CHOSEN, known)


def test_the_law_in_use_is_the_fit(known, chosen):
  found = fitting.law_constants(
    chosen._asdict(), points.platform(), points.MODEL
  )
  held = fitting.held_constants()
  for name, value in found.items():
    assert held[name] == pytest.approx(value, rel=0.02), name


def test_constants_in_use_are_what_stands_for_printed_results():
  found = fitting.constants(
    points.platform(), points.platform("agx_orin"), points.MODEL
  )
  held = fitting.held_constants()
  assert len(found) == 5
  for name, value in found.items():
    assert held[name] == pytest.approx(value, rel=0.01), name


def test_only_saturating_laws_pass(known):
  """Within 10 % at all five lengths; a power law or a logarithm cannot."""
  passing = {law for law in fitting.LAWS if fitting.fit(law, known).error < 0.1}
  assert passing == {law for law in fitting.LAWS if "saturating" in law}


def test_a_fit_of_its_own_law_finds_it(known):
  """Latencies made by a law are given back."""
  truth = fitting.Fitted("saturating, rational", 6.0, 8.0, 0.03, 0.0)
  made = fitting.predict(truth, known)
  again = fitting.fit(truth.law, known, printed_s=made)
  assert again.error < 1e-3
  np.testing.assert_allclose(
    again.fetched(paper.CACHE_TOKENS)[2:],
    truth.fetched(paper.CACHE_TOKENS)[2:],
    rtol=0.02,
  )


def test_a_length_that_was_left_out_is_missed_by_more(known, chosen):
  """Five points do not make a prediction, and the script says so."""
  left_out = fitting.leave_one_out(fitting.CHOSEN, known)
  assert np.abs(left_out).max() > 2 * chosen.error
