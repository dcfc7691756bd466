"""Settings as rows, tables, pictures and modelled costs."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vrex_jax.codesign import curves as curves_lib
from vrex_jax.codesign import settings
from vrex_jax.codesign import settings_cost
from vrex_jax.codesign import sweep_plots
from vrex_jax.codesign import sweep_tables
from vrex_jax.errors import InputError
from vrex_jax.hwmodel import latency
from vrex_jax.hwmodel import platforms
from vrex_jax.hwmodel import pricing
from vrex_jax.hwmodel import ratios
from vrex_jax.hwmodel import retrieval
from vrex_jax.hwmodel import workload
from vrex_jax.models import presets

CHOICES = (
  curves_lib.StaticChoice(hamming_threshold=5),
  curves_lib.StaticChoice(hamming_threshold=9, table="layer"),
)
GRID = np.float32([0.0, 0.2, 0.6, 1.0])
LAYERS, HEADS = 2, 2


@pytest.fixture(scope="module")
def curves():
  """Shares that are the ratio, by powers; questions and answers not known."""
  power = np.arange(1, 1 + LAYERS * HEADS).reshape(LAYERS, HEADS, 1)
  shares = GRID ** (1 / power)
  shape = (len(CHOICES), 3, LAYERS, HEADS, len(GRID))
  kept = np.broadcast_to(shares, shape).copy()
  kept[:, 2] = np.nan
  groups = np.full((len(CHOICES), LAYERS, HEADS), 0.1)
  groups[1, :, 1:] = 0.0
  single = lambda array: jnp.asarray(array, jnp.float32)
  return curves_lib.Curves(
    choices=CHOICES,
    grid=single(GRID),
    kept=single(kept),
    mass=single(np.sqrt(kept)),
    recall=None,
    groups=single(groups),
    run_tokens=single(np.full(shape, 8.0)),
    buckets=single(np.full(shape, 5.0)),
    worst_buckets=single(np.full(shape, 9.0)),
  )


MODEL = presets.preset("llama3-8b")
PLATFORM = platforms.named("vrex8").platform


@pytest.fixture(scope="module")
def costs(curves):
  return settings_cost.of_curves(curves, PLATFORM, MODEL, cache_tokens=40960)


@pytest.fixture(scope="module")
def rows(curves, costs):
  found = settings.rows_of(curves, settings.Variant(), costs)
  for row in found:
    row["closed"] = None
  found[1]["closed"] = {
    "kept": {"frame": 0.5, "question": 0.1, "answer": 0.1},
    "mass": {"frame": 0.6, "question": 0.2, "answer": 0.1},
    "recall": {"frame": None, "question": 0.4, "answer": None},
    "right": 3,
    "asked": 4,
  }
  return found


def test_a_row_for_every_setting(rows, curves):
  assert len({settings.key_of(row) for row in rows}) == 8
  row = rows[2]
  assert row["wicsum_ratio"] == pytest.approx(0.6)
  mean = float(np.mean(np.asarray(curves.kept)[0, 1, ..., 2]))
  assert row["kept"] == {
    "frame": pytest.approx(mean),
    "question": pytest.approx(mean),
    "answer": None,
  }
  assert row["recall"]["question"] is None
  assert np.shape(row["by_head"]["mass"]["frame"]) == (LAYERS, HEADS)
  # A table that heads share has ten tokens a cluster as well.
  assert [rows[at]["tokens_per_cluster"] for at in (0, 4)] == [
    pytest.approx(10.0)
  ] * 2


def test_costs_are_those_of_one_setting_priced_by_itself(curves, costs):
  """Without vmap: the third ratio of the first choice."""
  point = curves_lib.at(curves, 0, jnp.full((3, LAYERS, HEADS), GRID[2]))
  tokens = MODEL.connector.tokens_per_frame

  @jax.jit
  def alone():
    done = ratios.from_ratios(
      settings_cost.ratios_of(
        point, "frame", fetched=settings_cost.fetched_share(40960)
      ),
      MODEL.decoder,
      40960.0,
      chunk_tokens=tokens,
    )
    work = workload.from_retrieval(
      MODEL, done, stage="frame", chunk_tokens=tokens
    )
    schedule = latency.schedule_of(
      retrieval.METHODS["resv"], PLATFORM, stage="frame"
    )
    return pricing.price(PLATFORM, work, schedule)

  priced = alone()
  np.testing.assert_allclose(
    costs.frame_latency_s[0, 2], priced.time.latency_s, rtol=1e-5
  )
  np.testing.assert_allclose(
    costs.frame_energy_high_j[0, 2], priced.energy_j.high, rtol=1e-5
  )
  assert np.isnan(costs.token_latency_s).all()  # answers are not known
  assert np.all(np.diff(costs.frame_latency_s, axis=1) > 0)
  # At ratio 0 nothing is attended, and nothing crosses the link.
  spread = costs.frame_energy_high_j - costs.frame_energy_low_j
  assert np.all(spread[:, 0] == 0)
  assert np.all(spread[:, 1:] > 0)


def test_a_memory_that_is_too_small_is_refused(curves):
  small = PLATFORM.replace(
    dram=PLATFORM.dram.replace(capacity_bytes=jnp.float32(1e9))
  )
  with pytest.raises(InputError, match="GB of DRAM"):
    settings_cost.of_curves(curves, small, MODEL, cache_tokens=40960)


def test_lines_of_a_csv_are_plain(rows):
  lines = settings.flat(rows)
  assert {len(line) for line in lines} == {len(lines[0])}
  for line in lines:
    assert all(
      value is None or isinstance(value, (int, float, str))
      for value in line.values()
    )
  assert lines[1]["closed_mass_frame"] == 0.6
  assert lines[0]["closed_mass_frame"] is None


def test_tables_say_settings_and_gaps(rows):
  said = sweep_tables.table(rows)
  assert said.splitlines()[1].split()[:5] == ["5", "32", "head", "union",
                                              "frame"]  # fmt: skip
  gaps = sweep_tables.gap_table([rows[1]])
  kept = rows[1]["kept"]["frame"]
  assert f"kept of frames {100 * (0.5 - kept):+.1f}" in gaps
  assert "3/4" in gaps
  (mass,) = {
    round(sweep_tables.gaps([rows[1], rows[1]])["mass"]["frame"][name], 6)
    for name in ("mean", "largest")
  }
  assert mass == pytest.approx(0.6 - rows[1]["mass"]["frame"], abs=1e-6)
  assert sweep_tables.gaps([rows[1]])["recall"]["question"] is None
  assert "modelled" in sweep_tables.assumptions("vrex8", "llama3-8b", 40960)


def test_a_table_says_what_is_left_out_and_where_it_is(rows):
  few = [{**rows[0], "wicsum_ratio": ratio} for ratio in (0.5, 0.9)]
  *_, left_out, costs = sweep_tables.table(few, "runs/sweep").splitlines()
  assert left_out.startswith("1 of 2 rows are left out")
  assert left_out.endswith("runs/sweep/sweep.csv")
  assert "docs/accuracy_model.md" in costs
  assert "--out" in sweep_tables.table(few)
  assert "left out" not in sweep_tables.table(few[:1])


def test_pictures_are_drawn(rows, tmp_path):
  own = sweep_tables.first_of(rows)
  assert len(own) == len(GRID)  # the other choice has another table
  sweep_plots.save_heat_maps(own, tmp_path / "heat.png")
  sweep_plots.save_fronts(own, tmp_path / "fronts.png", "vrex8")
  names = {path.name for path in tmp_path.iterdir()}
  assert names == {"heat.png", "fronts.png"}


def test_some_settings_lie_apart():
  rows = [
    {"hamming_threshold": threshold, "wicsum_ratio": ratio / 10}
    for threshold in (4, 5, 6, 7, 8)
    for ratio in range(11)
  ]
  for number in (1, 4, 12):
    chosen = settings.spread(rows, number)
    assert len(chosen) == number
    keys = {tuple(row.values()) for row in chosen}
    assert len(keys) == number
    assert all(0 < row["wicsum_ratio"] < 1 for row in chosen)
  assert settings.spread(rows, 0) == []
  assert len(settings.spread(rows, 1000)) == 45


def test_choices_and_variants_are_all_combinations_once():
  choices = settings.static_choices([4, 7, 7], [16, 32], ["head", "layer"])
  assert len(choices) == len(set(choices)) == 8
  assert choices[1].hamming_threshold == 4  # 7 · 16 / 32, rounded
  found = settings.variants([None, 0], ["union", "vote:4", "pooled"])
  assert len(found) == 6
  for text in ("vote:0", "vote:x", "union:2", "mean"):
    with pytest.raises(InputError, match="--rows has"):
      settings.variants([None], [text])
  policy = settings.policy_of(choices[1], found[2], 0.25, 100)
  assert policy.name == (
    "resv(wicsum_ratio=0.25, hamming_threshold=4, hash_bits=16, rows=vote,"
    " votes=4, table_capacity=100)"
  )


def test_the_share_that_is_fetched_falls_with_the_length():
  shares = [float(settings_cost.fetched_share(n)) for n in (1e3, 1e4, 1e5)]
  assert shares == sorted(shares, reverse=True)
  assert all(0 < share <= 1 and math.isfinite(share) for share in shares)
