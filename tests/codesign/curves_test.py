"""Curves are the replay at every grid point; their slopes are true."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.codesign import streams
from tests.study import recorded
from vrex_jax import policy_syntax
from vrex_jax import recording as recording_lib
from vrex_jax import replay
from vrex_jax.codesign import curves as curves_lib
from vrex_jax.errors import InputError
from vrex_jax.resv import resv as resv_lib

GRID = np.array([0.0, 0.1, 0.3, 0.7, 1.0], np.float32)
THRESHOLDS = (0, 7, 12)
CHOICES = [curves_lib.StaticChoice(hamming_threshold=one) for one in THRESHOLDS]
EVIDENCE = {3: np.array([0, 1]), 5: np.array([1]), 8: np.array([0])}
CAPACITY = 96


@pytest.fixture(scope="module")
def recording():
  return streams.with_questions()


@pytest.fixture(scope="module")
def curves(recording):
  return curves_lib.of_recording(recording, CHOICES, GRID, evidence=EVIDENCE)


@pytest.fixture(scope="module")
def played(recording):
  """All settings side by side: axes [X, Z · ratios, …]."""
  policy = resv_lib.resv(table_capacity=CAPACITY)
  ratio, threshold = np.meshgrid(GRID, np.int32(THRESHOLDS))
  knobs = {
    "wicsum_ratio": ratio.ravel(),
    "hamming_threshold": threshold.ravel(),
    "text_ratio": None,
  }
  return replay.replay(policy, recording, knobs=knobs, sweep=True)


def by_stage(played, pick):
  """Means or quotients of a stage's events with a past: [Z, 3, …, ratios]."""
  past = played.counts.past_seen[:, 0, 0, 0] > 0
  stages = np.array([chunk.stage for chunk in played.chunks])
  found = np.stack(
    [pick((stages == stage) & past) for stage in curves_lib.STAGES], axis=1
  )
  found = found.reshape(len(THRESHOLDS), len(GRID), *found.shape[1:])
  return np.moveaxis(found, 1, -1)


def test_questions_of_one_moment_do_not_see_each_other(recording, played):
  """The replay's past is what the recorded positions say."""
  firsts = [chunk.first for chunk in played.chunks]
  np.testing.assert_array_equal(
    played.counts.past_seen[:, 0, 0, 0], recording.position[firsts]
  )
  branches = recording_lib.branches_of(recording, played.chunks)
  assert branches == [-1, -1, -1, 0, 0, 1, 1, -1, -1, -1]


def test_kept_shares_are_those_of_the_replay(curves, played):
  counts = played.counts
  share = lambda at: (
    counts.past_attended[at].sum(0) / counts.past_seen[at].sum(0)
  )
  expected = by_stage(played, share)
  np.testing.assert_allclose(curves.kept, expected, rtol=1e-6)
  assert 0 < expected.min() < 0.5
  assert expected[..., -1].min() == 1.0


def test_mass_is_that_of_the_replay(curves, played):
  heads = curves.kept.shape[3]
  mean = lambda at: played.mass[at].mean(0).reshape(-1, 1, heads, 2).mean(-1)
  np.testing.assert_allclose(curves.mass, by_stage(played, mean), atol=1e-5)


def test_buckets_and_groups_are_those_of_the_replay(curves, played):
  counts = played.counts
  rows = counts.groups_scored / np.maximum(counts.groups_live, 1)
  mean = lambda at: (counts.buckets_visited[at] / rows[at]).mean(0)
  worst = lambda at: counts.buckets_visited_max[at].mean(0)
  np.testing.assert_allclose(curves.buckets, by_stage(played, mean), rtol=1e-5)
  np.testing.assert_allclose(
    curves.worst_buckets, by_stage(played, worst), rtol=1e-5
  )
  groups = by_stage(
    played,
    lambda at: counts.groups_live[at].sum(0) / counts.past_seen[at].sum(0),
  )
  np.testing.assert_allclose(curves.groups, groups[:, 0, ..., 0], rtol=1e-6)


def events(recording, played):
  """(stage, past tokens, slots of all settings) of every event with a past."""
  branches = recording_lib.branches_of(recording, played.chunks)
  for index, chunk in enumerate(played.chunks):
    past = [
      token
      for other, branch in zip(played.chunks[:index], branches, strict=False)
      if branch in (-1, branches[index])
      for token in range(other.first, other.last)
    ]
    if past:
      bits = np.unpackbits(
        played.slots[index].view(np.uint8), axis=-1, bitorder="little"
      )
      yield index, chunk, past, bits[..., : len(past)].astype(bool)


def test_recall_is_the_share_of_the_evidence_in_the_slots(
  recording, curves, played
):
  found = {stage: [] for stage in curves_lib.STAGES}
  for index, chunk, past, kept in events(recording, played):
    if index in EVIDENCE:
      shown = np.isin(recording.frame[past], EVIDENCE[index])
      shown &= recording.kind[past] == streams.FRAME
      found[chunk.stage].append(kept[..., shown].mean(-1))
  assert {stage: len(one) for stage, one in found.items()} == {
    "frame": 1, "question": 2, "answer": 0,
  }  # fmt: skip
  for place in (0, 1):
    expected = np.mean(found[curves_lib.STAGES[place]], axis=0)
    expected = expected.reshape(len(THRESHOLDS), len(GRID), 1, 2)
    np.testing.assert_allclose(
      curves.recall[:, place], np.moveaxis(expected, 1, -1), atol=1e-6
    )
  assert np.isnan(curves.recall[:, 2]).all()


def test_runs_by_cluster_are_those_of_a_loop(recording, curves, played):
  """Of everything kept and not recent, clusters by age, tokens by time."""
  settings = len(THRESHOLDS) * len(GRID)
  member = np.asarray(played.state.policy.table.member)[:, 0, 0]
  fetched, runs = np.zeros((settings, 2)), np.zeros((settings, 2))
  frames = [one for one in events(recording, played) if one[1].stage == "frame"]
  for _, chunk, past, kept in frames:
    now = recording.position[chunk.first]
    old = now - recording.position[past] > recorded.CONTENTS
    for setting, head in np.ndindex(settings, 2):
      clusters = member[setting, head, : len(past)][old]
      wanted = kept[setting, 0, head][old]
      laid = wanted[np.argsort(clusters, kind="stable")]
      fetched[setting, head] += laid.sum()
      runs[setting, head] += (np.diff(laid.astype(int), prepend=0) == 1).sum()
  expected = (fetched / runs).reshape(len(THRESHOLDS), len(GRID), 2)
  np.testing.assert_allclose(
    curves.run_tokens[:, 0, 0], np.moveaxis(expected, 1, -1), rtol=1e-5
  )


@pytest.mark.parametrize(
  ("rows", "text"), [("vote", "rows=vote, votes=3"), ("pooled", "rows=pooled")]
)
def test_other_reductions_and_a_shared_table(rows, text):
  """One setting of each, without questions."""
  recording = recorded.recording(
    layers=1, heads=4, kv_heads=2, width=8, frames=5
  )
  choice = curves_lib.StaticChoice(table="layer")
  found = curves_lib.of_recording(
    recording, [choice], GRID, rows=rows, votes=3, recent_tokens=0
  )
  policy = policy_syntax.make_policy(
    f"resv(wicsum_ratio=0.3, table=layer, table_capacity=64, {text})"
  )
  played = replay.replay(policy, recording, recent_tokens=0, measure=False)
  counts = played.counts
  np.testing.assert_allclose(
    found.kept[0, 0, ..., 2],
    counts.past_attended.sum(0) / counts.past_seen.sum(0),
    rtol=1e-6,
  )
  groups = counts.groups_live.sum(0) / counts.past_seen.sum(0)
  np.testing.assert_allclose(found.groups[0], groups, rtol=1e-6)
  assert found.recall is None
  assert np.isnan(found.kept[0, 1]).all()  # there are no questions


def test_soft_curves_become_the_staircase(recording, curves):
  soft = lambda temperature: curves_lib.of_recording(
    recording, CHOICES[1:2], GRID, temperature=temperature
  )
  cold, warm = soft(1e-7), soft(0.05)
  for name in ("kept", "mass", "run_tokens"):
    exact = getattr(curves, name)[1]
    np.testing.assert_allclose(getattr(cold, name)[0], exact, rtol=1e-4)
  assert np.abs(warm.kept[0] - curves.kept[1]).max() > 0.01
  np.testing.assert_allclose(
    warm.kept[0, ..., -1], curves.kept[1, ..., -1], rtol=1e-6
  )


def test_padding_takes_no_part(recording, curves):
  """Invalid tokens between the events change nothing."""
  end = np.flatnonzero(np.diff(recording.event)) + 1
  wider = {
    name: array
    if name == "frequencies"
    else np.insert(array, end, array[..., end, :] + 1, axis=2)
    if array.ndim == 4
    else np.insert(array, end, array[end - 1])
    for name, array in recording._asdict().items()
  }
  valid = np.insert(recording.valid, end, False)
  padded = recording_lib.Recording(**{**wider, "valid": valid})
  found = curves_lib.of_recording(padded, CHOICES, GRID, evidence=EVIDENCE)
  for name in ("kept", "mass", "recall", "run_tokens"):
    np.testing.assert_allclose(
      getattr(found, name), getattr(curves, name), rtol=1e-6
    )


at = jax.jit(curves_lib.at)


def test_grid_points_are_met_and_between_them_is_a_line(curves):
  ratio = np.full((3, 1, 2), 0.3, np.float32)
  point = at(curves, 1, ratio)
  np.testing.assert_array_equal(point.kept, curves.kept[1, ..., 2])
  np.testing.assert_allclose(point.groups[2], curves.groups[1])
  ratio[1, 0, 1] = 0.2
  mass = at(curves, 1, ratio).mass
  np.testing.assert_allclose(
    mass[1, 0, 1], curves.mass[1, 1, 0, 1, 1:3].mean(), rtol=1e-6
  )
  np.testing.assert_array_equal(mass[0], point.mass[0])
  for outside, end in ((-1.0, 0), (2.0, -1)):
    held = at(curves, 1, np.full((3, 1, 2), outside, np.float32))
    np.testing.assert_array_equal(held.kept, curves.kept[1, ..., end])


def test_slopes_are_those_of_finite_differences(curves):
  """Inside a step of the grid, each threshold by itself."""
  random = np.random.default_rng(0)
  ratio = jnp.asarray(random.uniform(0.32, 0.68, (3, 1, 2)), jnp.float32)

  @jax.jit
  def total(ratio):
    point = curves_lib.at(curves, 1, ratio)
    return jnp.sum(point.kept**2 + point.mass - 0.01 * point.run_tokens)

  slope = jax.jit(jax.grad(total))(ratio)
  assert np.abs(slope).min() > 0
  step = 0.01
  for index in np.ndindex(ratio.shape):
    change = jnp.zeros_like(ratio).at[index].set(step)
    moved = (total(ratio + change) - total(ratio - change)) / (2 * step)
    np.testing.assert_allclose(slope[index], moved, rtol=2e-2, atol=1e-3)


def test_curves_rise_with_the_ratio(curves):
  for name in ("kept", "mass"):
    assert np.all(np.diff(getattr(curves, name), axis=-1) >= 0)


def test_a_file_gives_them_back(curves, tmp_path):
  path = tmp_path / "curves.npz"
  curves_lib.save(curves, path, {"frames": 6})
  read = curves_lib.load(path)
  assert read.choices == curves.choices
  np.testing.assert_array_equal(read.grid, curves.grid)
  np.testing.assert_allclose(read.kept, curves.kept, rtol=1e-3)
  np.testing.assert_allclose(read.recall, curves.recall, atol=1e-3)
  assert curves_lib.config_of(path) == {"frames": 6}
  path.write_bytes(path.read_bytes()[:200])
  for reader in (curves_lib.load, curves_lib.config_of):
    with pytest.raises(InputError, match="cannot be read as curves"):
      reader(path)


def test_the_packaged_curves_are_whole():
  """Those of the shipped model: all choices, rising, nothing unknown."""
  curves = curves_lib.packaged()
  choices, stages, layers, heads, _ = curves.kept.shape
  assert (stages, layers, heads) == (3, 4, 2)
  assert choices == len(curves.choices) == curves.groups.shape[0]
  assert curves_lib.choice_index(curves, curves_lib.StaticChoice()) >= 0
  assert {one.table for one in curves.choices} == {"head", "layer"}
  for name in ("kept", "mass", "recall", "run_tokens", "buckets"):
    assert np.isfinite(getattr(curves, name)).all(), name
  for name in ("kept", "mass"):
    values = np.asarray(getattr(curves, name))
    # Half precision may turn a step back by one of its own.
    assert np.diff(values, axis=-1).min() > -1e-3
    assert values.max() <= 1.0
  np.testing.assert_allclose(curves.kept[..., -1], 1.0)
  assert curves_lib.packaged_path().stat().st_size < 1_000_000
  config = curves_lib.config_of(curves_lib.packaged_path())
  assert int(config["frames"]) == 512


def test_held_out_curves_are_of_another_stream_made_alike():
  paths = [curves_lib.packaged_path(held_out=one) for one in (False, True)]
  first, other = map(curves_lib.config_of, paths)
  assert first.keys() == other.keys()
  changed = {name for name in first if first[name] != other[name]}
  assert changed == {"seed", "curves"}
  sizes = [path.stat().st_size for path in paths]
  assert sizes[1] < 1.1 * sizes[0]
  one, held_out = curves_lib.packaged(), curves_lib.packaged_held_out()
  assert one.choices == held_out.choices
  apart = np.abs(np.asarray(one.kept - held_out.kept))
  assert 0 < apart.mean() < 0.05


@pytest.mark.parametrize(
  ("changed", "said"),
  [
    ({"choices": []}, "there is no static choice"),
    ({"grid": [0.3]}, "they must be two or more that rise"),
    ({"grid": [0.3, 0.2]}, "they must be two or more that rise"),
    ({"grid": [0.5, 1.5]}, "within 0 and 1"),
    ({"rows": "mean"}, "rows is 'mean'"),
    ({"votes": 0}, "votes is 0"),
    ({"temperature": 0.0}, "temperature is 0.0"),
    ({"temperature": 0.1, "rows": "vote"}, "votes have no soft form"),
  ],
)
def test_mistakes_are_one_sentence(recording, changed, said):
  arguments = {"choices": CHOICES, "grid": GRID, **changed}
  with pytest.raises(InputError, match=said):
    curves_lib.of_recording(recording, **arguments)


def test_a_recording_without_a_past_is_refused(recording):
  short = recording_lib.Recording(
    **{
      name: array
      if name == "frequencies"
      else array[:, :, : recorded.CONTENTS]
      if array.ndim == 4
      else array[: recorded.CONTENTS]
      for name, array in recording._asdict().items()
    }
  )
  with pytest.raises(InputError, match="no frame with a past"):
    curves_lib.of_recording(short, CHOICES, GRID)


@pytest.mark.parametrize(
  ("changed", "said"),
  [
    ({"hash_bits": 0}, "hash_bits is 0"),
    ({"hash_bits": 200}, "at most 128"),
    ({"hamming_threshold": 34}, "at most 33"),
    ({"table": "model"}, "must be head or layer"),
  ],
)
def test_a_choice_is_checked(changed, said):
  with pytest.raises(InputError, match=said):
    curves_lib.StaticChoice(**changed)


def test_a_choice_that_is_not_there(curves):
  assert curves_lib.choice_index(curves, CHOICES[2]) == 2
  with pytest.raises(InputError, match="the curves have no StaticChoice"):
    curves_lib.choice_index(curves, curves_lib.StaticChoice(hash_bits=16))
