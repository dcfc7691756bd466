"""The decoder step on a CPU: limits, and sums by hand."""

import dataclasses

import pytest

from tests.hwmodel import points
from vrex_jax.benchmark import plans
from vrex_jax.errors import InputError
from vrex_jax.hwmodel import cpu
from vrex_jax.hwmodel import params
from vrex_jax.hwmodel import platforms
from vrex_jax.models import dense
from vrex_jax.models import work_list
from vrex_jax.resv import blocks

DECODER = plans.model_config("wide", 10).decoder
COSTS = params.CpuParameters(
  panel_bytes_per_s=20e9,
  panel_flops_per_s=80e9,
  plain_bytes_per_s=10e9,
  plain_flops_per_s=100e9,
  attend_bytes_per_s=12e9,
  attend_flops_per_s=90e9,
  held_bytes_per_s=40e9,
  held_flops_per_s=110e9,
  search_row_s=2e-6,
  search_score_s=2e-9,
  search_far_score_s=5e-9,
  gather_bytes_per_s=8e9,
  copy_bytes_per_s=8e9,
  score_s=0.6e-9,
  weigh_s=0.2e-9,
  merge_s=0.3e-9,
  slot_s=30e-9,
  lookup_s=1e-9,
  compare_s=2e-9,
  operation_s=50e-9,
)
PLATFORM = points.platform().replace(cpu=COSTS)


def spent(**changes):
  options = {"cached_tokens": 8192, "frame_tokens": 10, **changes}
  return cpu.step_time(PLATFORM, DECODER, **options)


def test_weights_and_operations_of_dense_layers():
  """8 layers of 1024 × (3072 + 2048 + 12288) weights, in panels."""
  weights = 8 * 1024 * (16 * 128 + 8 * 128 + 16 * 128 + 3 * 4096)
  products = 4 * weights / 20e9 + 2 * 10 * weights / 80e9
  passes = 8 * 10 * (8 * 1024 + 2 * 4096) * 0.2e-9
  assert float(spent().dense_s) == pytest.approx(products + passes, rel=1e-6)


def test_more_rows_than_panels_take_are_plain():
  few, many = spent(frame_tokens=32).dense_s, spent(frame_tokens=33).dense_s
  slow_panels = PLATFORM.replace(cpu=COSTS.replace(panel_flops_per_s=1e9))
  again = cpu.step_time(
    slow_panels, DECODER, cached_tokens=8192, frame_tokens=33
  )
  assert again.dense_s == many
  assert few < many


def test_the_past_costs_in_proportion():
  """Without a past only the chunk's own attention is left."""
  none, half, full = (
    spent(cached_tokens=n).attention_s for n in (0, 4096, 8192)
  )
  assert full - half == pytest.approx(half - none, rel=1e-9)
  assert none < 0.01 * full


def test_choosing_all_reads_the_past_once_and_costs_more():
  """The gather reads it from memory; attention finds it in the cache."""
  everything = spent(share=1.0)
  past = 2 * 8 * 4 * 128 * 4 * 8192
  scores = 8 * 16 * 10 * (8192 + 10)
  work = 4 * 128 * scores / 110e9 + 0.6e-9 * scores
  merged = 0.3e-9 * 8 * 4 * 32 * 40 * 128
  assert everything.attention_s == pytest.approx(
    past / 40e9 + work + merged, rel=1e-6
  )
  assert everything.gather_s == pytest.approx(
    past / 8e9 + 30e-9 * 8 * 4 * 8192, rel=1e-6
  )
  assert everything.total_s > spent().total_s


def test_a_selection_is_gathered_in_whole_groups():
  """A slot of each of four heads fills an item of 256, eight are a group."""
  one, group = spent(share=1e-4), spent(share=512 / 8192)
  assert one == group
  assert spent(share=513 / 8192).gather_s == 2 * group.gather_s


def test_scores_that_leave_the_cache_cost_more_to_search():
  """Of 784 rows 2816 clusters, 90 112 slots, are more than 8 MiB."""
  slots = [32 * 256 * blocks for blocks in (10, 11)]
  near, far = (
    spent(frame_tokens=196, cached_tokens=count, share=0.1).selection_s
    for count in slots
  )
  cheap = PLATFORM.replace(cpu=COSTS.replace(search_far_score_s=2e-9))
  as_near = cpu.step_time(
    cheap, DECODER, cached_tokens=slots[1], frame_tokens=196, share=0.1
  ).selection_s
  assert as_near == pytest.approx(1.1 * near, rel=0.02)
  assert far - as_near == pytest.approx(8 * 4 * 784 * 2816 * 3e-9, rel=1e-6)


def test_a_smaller_share_is_cheaper_but_choosing_stays():
  small, large = spent(share=0.05), spent(share=0.33)
  assert small.total_s < large.total_s
  assert small.selection_s == large.selection_s
  assert small.gather_s < 0.2 * large.gather_s


def test_twice_as_fast_everywhere_takes_half():
  fast = cpu.step_time(
    params.speed_up(PLATFORM, 2.0),
    DECODER,
    cached_tokens=8192,
    frame_tokens=10,
    share=0.2,
  )
  assert fast.total_s == pytest.approx(spent(share=0.2).total_s / 2, rel=1e-9)


def test_sizes_are_the_package_s_own():
  assert cpu.MOST_PANEL_ROWS == dense.MOST_ROWS
  assert cpu.ITEM_SLOTS == work_list.CHUNK
  assert cpu.MOST_ITEMS == work_list.GROUP
  assert cpu.SCORE_BYTES == work_list.SCORE_BYTES
  assert cpu.CLUSTER_BLOCK == blocks.BLOCK


def test_a_platform_that_was_not_calibrated_is_refused():
  with pytest.raises(InputError, match="no \\[cpu\\] part"):
    cpu.step_time(
      platforms.named("vrex8").platform,
      DECODER,
      cached_tokens=1,
      frame_tokens=1,
    )


def test_terms_are_read_from_a_file():
  """What a calibration writes comes back in SI."""
  line = {"unit": "GB/s", "status": "measured", "source": "a test"}
  table = {"name": "mine", "base": "vrex8", "cpu": {}}
  for field in dataclasses.fields(params.CpuParameters):
    unit = {"_bytes_per_s": "GB/s", "_flops_per_s": "GFLOPS"}.get(
      "_" + "_".join(field.name.split("_")[-3:]), "ns"
    )
    table["cpu"][field.name] = {**line, "unit": unit, "value": 3}
  read = platforms.describe(table, "a test").platform.cpu
  assert read.panel_bytes_per_s == 3e9
  assert read.score_s == pytest.approx(3e-9)
