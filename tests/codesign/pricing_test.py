"""Laws of priced designs, verdicts, rounding and simulation: one program."""

import itertools
import tomllib
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.codesign import problems
from vrex_jax import policy_syntax
from vrex_jax.codesign import band
from vrex_jax.codesign import certificate
from vrex_jax.codesign import confirm
from vrex_jax.codesign import constants
from vrex_jax.codesign import curves as curves_lib
from vrex_jax.codesign import elasticity
from vrex_jax.codesign import objective
from vrex_jax.codesign import pricing
from vrex_jax.codesign import report
from vrex_jax.codesign import rounding
from vrex_jax.codesign import setting
from vrex_jax.codesign import simulation
from vrex_jax.codesign import sizing
from vrex_jax.codesign import space as space_lib
from vrex_jax.codesign import study
from vrex_jax.codesign import turn
from vrex_jax.errors import InputError
from vrex_jax.hwmodel import platforms

PAPER = problems.paper()
LIMITS = problems.LIMITS
INDEX = {name: place for place, name in enumerate(objective.LIMITS)}


@pytest.fixture(scope="module")
def pricer():
  return pricing.Pricer(problems.problem())


def priced(pricer, *designs, choice=1, known=constants.CENTRE):
  placed = pricer.place(designs, choice)
  return pricer([one._replace(known=known) for one in placed], LIMITS)


def test_more_of_what_is_fast_is_never_slower(pricer):
  """Also a larger window; and more kept is never faster."""
  changes = {
    "link_bytes_per_s": 8e9,
    "dram_bytes_per_s": 273.1e9,
    "dot_units": 96.0,
    "link_depth": 128.0,
    "wtu_width": 32.0,
    "hcu_width": 32.0,
    "resident_tokens": np.full((2, 2), 1024.0),
  }
  more = [PAPER.replace(**{name: value}) for name, value in changes.items()]
  kept = PAPER.replace(ratio=np.full((3, 2, 2), 0.4))
  seconds = priced(pricer, PAPER, kept, *more).figures.latency_s
  assert seconds[1] > seconds[0]
  assert np.all(seconds[2:] <= seconds[0] * (1 + 1e-6))
  assert np.all(seconds[[2, 8]] < 0.999 * seconds[0])


def test_a_turn_is_the_sum_of_its_events_and_power_their_quotient(pricer):
  found = priced(pricer, PAPER).figures
  counts = np.array(turn.EVENTS)
  np.testing.assert_allclose(found.latency_s, found.event_s @ counts, rtol=1e-5)
  np.testing.assert_allclose(found.energy_j, found.event_j @ counts, rtol=1e-5)
  np.testing.assert_allclose(
    found.power_w, found.energy_j / found.latency_s, rtol=1e-5
  )


def test_with_all_in_the_window_nothing_crosses_the_link(pricer):
  all_there = PAPER.replace(resident_tokens=np.full((2, 2), 4096.0))
  _, work = pricer.built(*pricer.place([all_there], 1))
  _, usual = pricer.built(*pricer.place([PAPER], 1))
  assert np.all(work.layers.fetch_bytes < 1e-3)
  assert np.all(usual.layers.fetch_bytes > 1e3)
  assert np.all(work.held_bytes > usual.held_bytes)


def test_all_outside_the_window_is_fetched_at_the_other_end_of_the_band():
  stream = turn.Stream(model=problems.problem().stream.model)
  share = lambda place: turn.missing_share(
    stream, constants.Constants(residency=place), jnp.zeros((2, 2))
  )
  np.testing.assert_allclose(share(1.0), 1.0, rtol=1e-6)
  np.testing.assert_allclose(share(0.0), 0.325, atol=1e-3)


def test_more_hash_bits_and_separate_tables_compare_more(pricer):
  usual, longer, shared = (
    pricer.built(*pricer.place([PAPER], choice))[1].layers
    for choice in (1, 2, 3)
  )
  np.testing.assert_allclose(longer.comparisons, 2 * usual.comparisons)
  np.testing.assert_allclose(longer.live_tables, usual.live_tables)
  np.testing.assert_allclose(shared.comparisons, usual.comparisons / 8)
  np.testing.assert_allclose(shared.scores, usual.scores)


def test_each_limit_is_passed_by_what_passes_it(pricer):
  cases = {
    "area": PAPER.replace(cores=9.0),
    "accuracy": PAPER.replace(ratio=np.full((3, 2, 2), 0.05)),
    "dram": PAPER.replace(capacity_bytes=8e9),
    "on_chip": PAPER.replace(memory_bytes=2.0**17),
    "vector": PAPER.replace(vector_lanes=32.0),
    "codes": PAPER.replace(hash_bytes=64.0),
  }
  passed = priced(pricer, PAPER, *cases.values()).passed
  assert np.all(passed[0] <= 0)
  for row, name in zip(passed[1:], cases, strict=True):
    assert row[INDEX[name]] > 0
    assert np.all(np.delete(row, INDEX[name]) <= 1e-6), name


def test_power_is_limited_where_it_is_more_than_asked_for(pricer):
  placed = pricer.place([PAPER], 1)
  power_w = float(priced(pricer, PAPER).figures.power_w[0])
  for factor, sign in ((0.5, 1.0), (2.0, -1.0)):
    limits = LIMITS.replace(power_w=factor * power_w)
    passed = pricer(placed, limits).passed[0]
    assert np.sign(passed[INDEX["power"]]) == sign
    assert np.all(np.delete(passed, INDEX["power"]) <= 0)


def test_better_everywhere_needs_every_point_and_says_where_it_looked():
  better = band.Verdict(0.5, 0.3, 0.9, 257)
  mixed = band.Verdict(0.5, 0.3, 1.01, 257)
  whole = band.Verdict(0.5, 0.3, 0.9, band.MOST_SIMULATED)
  assert (better.wins, mixed.wins) == (True, False)
  ends = lambda *given: report.verdict_sentence("it", *given).split(": ")[-1]
  assert ends(better, whole) == "better everywhere"
  assert ends(mixed, whole) == "NOT better everywhere"
  one = whole._replace(points=1)
  assert ends(better, one) == "better at every point that was priced"
  assert "over 1 point of" in report.verdict_sentence("it", better, one)


def test_what_a_real_run_kept_is_what_is_simulated(pricer):
  described = study.describe(
    pricer, study.Designed(PAPER, 1), LIMITS, exact=True
  )
  kept = np.full((3, 2, 2), 0.6)
  kept[1] = np.nan  # No question in the run: what the curves say.
  measured = confirm.Measured(kept, 0.02, (0.01, 0.03), 0.9, {})
  as_curves, _ = study.confirmed(pricer, described, LIMITS, None)
  figures, placed = study.confirmed(pricer, described, LIMITS, measured)
  assert figures["latency_s"] > as_curves["latency_s"]
  assert figures["accuracy"] == pytest.approx(0.98)
  shares = np.asarray(placed.shares.kept)
  np.testing.assert_allclose(shares[::2], 0.6)
  np.testing.assert_allclose(
    shares[1], np.asarray(described.placed.shares.kept)[1]
  )


def test_exact_shares_are_those_of_the_held_out_rule():
  more = lambda choice, ratio: problems.lookup(choice, jnp.sqrt(ratio))
  pricer = pricing.Pricer(problems.problem(exact=more))
  searched, exact = (
    study.describe(pricer, study.Designed(PAPER, 1), LIMITS, exact=exact)
    for exact in (False, True)
  )
  np.testing.assert_allclose(searched.placed.shares.kept, 0.3, rtol=1e-6)
  np.testing.assert_allclose(exact.placed.shares.kept, 0.3**0.5, rtol=1e-6)


def test_a_study_is_judged_by_the_curves_that_were_held_out():
  searched, held_out = curves_lib.packaged(), curves_lib.packaged_held_out()
  found = setting.problem_of(
    platforms.named("vrex8"), searched, held_out, setting.drop_of(None),
    model="llama3-8b", cached_tokens=4096, batch=1, kv_precision="bf16",
    objective="energy_delay", memory="queued",
  )  # fmt: skip
  ratio = jnp.full((3, *searched.kept.shape[2:4]), 0.3)
  for rule, own in ((found.lookup, searched), (found.exact, held_out)):
    np.testing.assert_array_equal(
      rule(0, ratio).kept, curves_lib.at(own, 0, ratio).kept
    )
  assert np.any(found.lookup(0, ratio).kept != found.exact(0, ratio).kept)


def test_time_that_only_the_simulator_sees_costs_static_energy(
  pricer, monkeypatch
):
  (one,) = pricer.place([PAPER], 1)
  usual = simulation.simulate(pricer, one, LIMITS)
  real = simulation.simulated_step.simulate

  def longer(*given, **named):
    return types.SimpleNamespace(finish_ps=2 * real(*given, **named).finish_ps)

  monkeypatch.setattr(simulation.simulated_step, "simulate", longer)
  found = simulation.simulate(pricer, one, LIMITS)
  platform, _ = pricer.built(one)
  np.testing.assert_allclose(
    found.energy_j - usual.energy_j,
    float(platform.power.static_w) * usual.latency_s,
    rtol=1e-4,
  )


def test_sizes_are_rounded_within_their_bounds():
  bounds = {"cores": (10.0, 16.0), "clock_hz": (9e8, 11e8)}
  ladder = rounding.ladder_of(space_lib.make(PAPER, bounds=bounds))
  for name, (low, high) in bounds.items():
    assert ladder[name].min() >= low, name
    assert ladder[name].max() <= high, name
  nothing = space_lib.make(PAPER, bounds={"hcu_rows": (5.0, 7.0)})
  with pytest.raises(InputError, match="hcu_rows may lie between 5 and 7"):
    rounding.ladder_of(nothing)


def test_thresholds_of_a_design_are_a_policy():
  design = problems.paper(0.25)
  choice = {"hamming_threshold": 5, "hash_bits": 16, "table": "layer"}
  text = report.policy_text(design, choice, room=64)
  policy = policy_syntax.make_policy(text)
  assert policy.knobs["hamming_threshold"] == 5
  ratio = np.asarray(policy.knobs["wicsum_ratio"])
  np.testing.assert_array_equal(ratio, np.full((4, 2, 2), 0.25))


def test_a_design_is_exactly_as_good_as_itself_over_the_whole_band(pricer):
  (one,) = pricer.place([PAPER], 1)
  (other,) = pricer.place([PAPER.replace(link_bytes_per_s=8e9)], 1)
  same = band.by_model(pricer, one, one, LIMITS)
  assert (same.centre, same.least, same.most) == (1.0, 1.0, 1.0)
  assert (same.points, same.wins) == (257, False)
  faster = band.by_model(pricer, other, one, LIMITS)
  assert faster.least <= faster.centre <= faster.most
  assert faster.least < 1.0
  low, high = band.power_range(pricer, one, LIMITS)
  centre = float(priced(pricer, PAPER).figures.power_w[0])
  assert low < centre < high


def test_the_simulator_agrees_with_the_model(pricer):
  (one,) = pricer.place([PAPER], 1)
  modelled = pricer([one], LIMITS).figures
  found = simulation.simulate(pricer, one, LIMITS)
  np.testing.assert_allclose(found.event_s, modelled.event_s[0], rtol=0.05)
  np.testing.assert_allclose(found.energy_j, modelled.energy_j[0], rtol=0.05)


def test_rounding_gives_what_can_be_built_keeps_limits_and_is_a_local_best(
  pricer,
):
  space = space_lib.make(PAPER, groups=["cores", "link"])
  share = np.full(space.dimensions, 0.4, np.float32)
  at = space_lib.design(space, share)
  built = rounding.repair(pricer, space, LIMITS, at, 1)
  assert built.feasible
  ladder = rounding.ladder_of(space)
  for name, values in ladder.items():
    assert float(getattr(built.design, name)) in values, name
  steps = [
    built.design.replace(**{name: values[place]})
    for name, values in ladder.items()
    for here in [list(values).index(float(getattr(built.design, name)))]
    for place in (here - 1, here + 1)
    if 0 <= place < len(values)
  ]
  around = priced(pricer, *steps)
  keeps = around.passed.max(axis=1) <= 0
  assert np.all(around.value[keeps] >= built.value - 1e-4)


def test_thresholds_are_rounded_to_thousandths(pricer):
  space = space_lib.make(PAPER, groups=["thresholds"])
  at = PAPER.replace(ratio=np.full((3, 2, 2), 0.31234))
  built = rounding.repair(pricer, space, LIMITS, at, 1, most_steps=1)
  whole = 1000 * np.asarray(built.design.ratio)
  np.testing.assert_allclose(whole, np.round(whole), atol=1e-6)
  assert float(built.design.cores) == 8.0


def test_the_certificate_is_the_best_of_all_points(pricer):
  axes = {
    "cores": np.array([4.0, 8.0, 9.0]),
    "link_bytes_per_s": np.array([4e9, 8e9]),
  }
  designs = [
    PAPER.replace(cores=cores, link_bytes_per_s=rate)
    for cores, rate in itertools.product(*axes.values())
  ]
  every = priced(pricer, *designs)
  keeps = every.passed.max(axis=1) <= 0
  found = certificate.enumerate_all(
    pricer.problem, PAPER, axes, LIMITS, choice=1
  )
  assert (found.points, found.feasible) == (6, int(keeps.sum()))
  np.testing.assert_allclose(found.value, every.value[keeps].min(), rtol=1e-5)
  best = designs[int(np.argmin(np.where(keeps, every.value, np.inf)))]
  assert (found.design.cores, found.design.link_bytes_per_s) == (
    best.cores, best.link_bytes_per_s
  )  # fmt: skip


def test_a_grid_of_too_many_points_is_refused():
  with pytest.raises(Exception, match="only up to 10000000"):
    certificate.grid_size({str(i): np.arange(100) for i in range(4)})


def test_elasticities_are_slopes_of_the_logarithm(pricer):
  """Between classes: at one, energy and area of a bandwidth have a corner."""
  between = PAPER.replace(link_bytes_per_s=6e9, dram_bytes_per_s=230e9)
  (found,) = elasticity.elasticities(
    pricer.problem, {"paper": (between, 1)}, sharpness=None
  ).values()
  names = ("link_bytes_per_s", "cores", "clock_hz", "wtu_width")
  step = 1e-2
  moved = [
    between.replace(**{name: getattr(between, name) * np.exp(sign * step)})
    for name in names
    for sign in (1, -1)
  ]
  values = priced(pricer, *moved).value.reshape(-1, 2)
  slopes = (values[:, 0] - values[:, 1]) / (2 * step)
  for name, slope in zip(names, slopes, strict=True):
    np.testing.assert_allclose(found[name], slope, atol=3e-3, err_msg=name)
  assert elasticity.engine_total(found) >= abs(found["wtu_width"])
  assert "link_bytes_per_s" in elasticity.table({"a": found}, least=0.0)


def test_the_least_threshold_that_keeps_the_accuracy(pricer):
  problem = pricer.problem
  drop = lambda ratio: 0.05 * (1 - np.sqrt(ratio + 1e-6))
  ratio = study.calibrated_ratio(problem, problems.paper(0.1), 0, 0.02)
  assert drop(ratio) <= 0.02 < drop(ratio - 0.001)
  assert study.calibrated_ratio(problem, PAPER, 0, -1.0) == 1.0


def test_the_platform_file_is_the_design(pricer, tmp_path):
  design = PAPER.replace(cores=6.0, clock_hz=9e8, link_bytes_per_s=8e9)
  path = tmp_path / "design.toml"
  report.write_platform(platforms.named("vrex8"), pricer.problem, design, path)
  read = platforms.read(path)
  whole = jax.tree.map(lambda leaf: jnp.asarray(leaf, float), design)
  made = sizing.apply(
    problems.BASE, whole, pricer.problem.stream.model
  ).platform
  for one, other in zip(
    jax.tree.leaves(read.platform), jax.tree.leaves(made), strict=True
  ):
    np.testing.assert_allclose(one, other, rtol=1e-5)
  numbers = tomllib.loads(path.read_text())
  assert numbers["compute"]["cores"]["status"] == "derived"
  assert numbers["compute"]["dot_units"]["status"] == "paper"


def test_limits_that_cannot_be_kept_are_one_sentence(pricer):
  limits = objective.Limits(1e-6, 35.0, 0.03)
  found = study.describe(pricer, study.Designed(PAPER, 1), limits, exact=True)
  said = report.infeasible(found.passed.tolist(), found.figures, PAPER, limits)
  assert "exceeds --area_mm2 1 by 14.09 mm2:" in said
  assert "the nearest has 15.09 mm2" in said
