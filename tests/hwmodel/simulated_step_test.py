"""The model against the simulation of the same events."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.hwmodel import points
from vrex_jax.hwmodel import latency
from vrex_jax.hwmodel import pipeline
from vrex_jax.hwmodel import retrieval_engine
from vrex_jax.hwmodel import score_law
from vrex_jax.hwmodel import simulated_engine
from vrex_jax.hwmodel import simulated_step

Detail = simulated_step.Detail
hcu_cycles = jax.jit(retrieval_engine.hcu_cycles)
finish = jax.jit(pipeline.finish_s, static_argnames="sharpness")


def random_spans(random):
  layers = random.integers(1, 9)
  draw = lambda *shape: random.uniform(1e-3, 9e-3, shape)
  return pipeline.Durations(
    draw(), *(draw(8 - layers % 2) for _ in range(5)), draw()
  )


@pytest.mark.parametrize("sharpness", [None, 2.0**30])
def test_the_model_tends_to_the_simulation(sharpness):
  """Layers with durations of their own; within 1e-9, hard and in the limit."""
  random = np.random.default_rng(0)
  with jax.enable_x64(True):
    for _ in range(10):
      spans = random_spans(random)
      model = float(
        finish(jax.tree.map(jnp.asarray, spans), sharpness=sharpness)
      )
      line = simulated_step.simulate_spans(spans)
      assert 1e-12 * line.finish_ps == pytest.approx(model, rel=1e-9)


@pytest.fixture(scope="module")
def platform():
  return points.platform()


@pytest.fixture(scope="module")
def layers_of():
  """Counts of a frame with few layers, so that the simulation is short."""

  def make(cached, batch=1.0, layers=4):
    work = points.work(cached=cached, batch=batch)
    few = jax.tree.map(lambda leaf: leaf[:layers], work.layers)
    return work.replace(layers=few)

  return make


SCHEDULE = latency.Schedule(on_engine=True, contiguous=True)


def simulated_s(platform, work, detail):
  line = simulated_step.simulate(platform, work, SCHEDULE, detail)
  return 1e-12 * line.finish_ps


def test_details_stay_near_the_model(platform, layers_of):
  """On V-Rex8 at 40K: each approximation costs less than two per cent."""
  work = layers_of(40960.0)
  plain = simulated_s(platform, work, simulated_step.PLAIN)
  for detail in (
    Detail(tiles=16),
    Detail(engine=True),
    Detail(requests=True),
    Detail(requests=True, arrivals=True),
    Detail(tiles=16, engine=True, requests=True, arrivals=True),
  ):
    gap = simulated_s(platform, work, detail) / plain - 1
    assert abs(gap) < 0.02
    assert detail.engine or gap != 0  # it does something


def test_tiles_of_a_stage_end_one_tile_late(platform, layers_of):
  """More tiles: nearer to the maximum, from above."""
  work = layers_of(1024.0, layers=2)
  plain = simulated_s(platform, work, simulated_step.PLAIN)
  late = [
    simulated_s(platform, work, Detail(tiles=number)) - plain
    for number in (2, 8, 64)
  ]
  assert late[0] > late[1] > late[2] > 0


def test_a_shallow_queue_is_bound_by_latency(platform, layers_of):
  """What the ideal link does not know: 1 place, one latency a request."""
  work = layers_of(20480.0, layers=2)
  requests = int(np.ceil(work.layers.fetch_requests[1]))
  shallow = platform.replace(
    link=platform.link.replace(queue_depth=1.0, latency_s=1e-3)
  )
  spent = simulated_s(shallow, work, Detail(requests=True))
  assert spent > 1e-3 * requests
  assert simulated_s(shallow, work, simulated_step.PLAIN) < 0.2 * spent


def test_arrivals_need_requests():
  with pytest.raises(ValueError, match="set requests too"):
    Detail(arrivals=True)


@pytest.mark.parametrize(("codes", "batch"), [(1000, 1), (1280, 1), (1500, 2)])
def test_the_hcu_s_closed_form_is_exact_but_for_its_rounded_corner(
  platform, codes, batch
):
  tables = 8.0 * batch
  layers = points.work().layers.replace(
    comparisons=np.float32([10 * tables * codes]),
    live_codes=np.float32([tables * codes]),
    live_tables=np.float32([tables]),
  )
  model = float(hcu_cycles(platform.engine, layers)[0]) / 8
  exact = simulated_engine.hcu_cycles(
    [codes] * (8 * batch),
    tokens=10, bits=32, width=16, rows=1, fit=1024, cores=8,
  )  # fmt: skip
  assert exact == 2 * batch * (10 * codes + max(codes - 1024, 0))
  assert model == pytest.approx(exact, rel=2e-3)


def test_rows_are_dealt_out_whole():
  """Nine rows on eight cores take as long as two."""
  spent = [
    simulated_engine.wtu_cycles(
      [64] * rows, [3] * rows, width=16, rows=1, cores=8
    )
    for rows in (1, 8, 9)
  ]
  assert spent == [16, 16, 32]


def test_lockstep_waits_for_the_slowest_row():
  together = {
    rows: simulated_engine.wtu_cycles(
      [16] * 4, [1, 7, 2, 3], width=16, rows=rows, cores=1
    )
    for rows in (1, 2, 4)
  }
  assert together == {1: 17, 2: 12, 4: 8}


def test_drawn_buckets_have_the_law_s_mean():
  random = np.random.default_rng(0)
  drawn = simulated_engine.draw_buckets(random, 20000, ratio=0.3, number=20)
  mean, _ = jax.jit(score_law.LAW.buckets)(0.3, 20.0, 1.0)
  assert np.mean(drawn) == pytest.approx(float(mean), rel=0.02)
  assert min(drawn) >= 1
  assert max(drawn) <= 20
