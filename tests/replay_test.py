"""A replay is the stream: same slots, same counts, for every kind of chunk."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vrex_jax import bitmap
from vrex_jax import driver as driver_lib
from vrex_jax import errors
from vrex_jax import observing
from vrex_jax import policy_syntax
from vrex_jax import recording as recording_lib
from vrex_jax import replay
from vrex_jax import session_report
from vrex_jax import stream_state
from vrex_jax import testing
from vrex_jax import trace as trace_lib
from vrex_jax.codesign import curves as curves_lib
from vrex_jax.models import rotary

POLICY = "resv(wicsum_ratio=0.2, hamming_threshold=10, table_capacity=256)"
FRAMES = 12


@pytest.fixture(scope="module")
def told():
  """A recorded stream: prompt, frames, an undone question, one that is kept."""
  policy = policy_syntax.make_policy(POLICY)
  config = stream_state.StreamConfig(
    decoder=testing.decoder_config(num_layers=1),
    capacity=200,
    frame_tokens=6,
    question_chunk=4,
    observe=observing.record_chunk,
  )
  params = testing.decoder_parameters(config.decoder)
  driver, run = testing.start(
    config, policy, params, block_frames=4, max_tokens=3
  )
  frames = testing.hidden_frames(config, FRAMES)
  run = driver_lib.feed_text(driver, run, [[1, 2, 3, 4, 5]])
  run = driver_lib.feed_frames(driver, run, frames[:4], range(4))
  run, _ = driver_lib.ask(driver, run, [[7, 8, 9, 10, 11]])
  run = driver_lib.feed_frames(driver, run, frames[4:8], range(4))
  run, _ = driver_lib.ask(driver, run, [[3, 2, 1]], keep=True)
  run = driver_lib.feed_frames(driver, run, frames[8:], range(4))
  model = types.SimpleNamespace(
    config=types.SimpleNamespace(decoder=config.decoder)
  )
  arrays = session_report.record_arrays(model, run.observations)
  return types.SimpleNamespace(
    policy=policy,
    decoder=config.decoder,
    recording=recording_lib.from_arrays(arrays),
    arrays=arrays,
    trace=driver_lib.finish_trace(driver, run),
    state=run.state,
    played=replay.replay(policy, recording_lib.from_arrays(arrays)),
  )


def test_chunks_are_told_apart(told):
  chunks = recording_lib.chunks_of(told.recording)
  stages = [chunk.stage for chunk in chunks]
  assert stages[:2] == ["prompt", "prompt"]
  assert stages.count("frame") == FRAMES
  undone = {chunk.stage for chunk in chunks if chunk.undone}
  assert undone == {"question", "answer"}
  questions = [chunk.undone for chunk in chunks if chunk.stage == "question"]
  assert questions == [True, True, False]


def test_counts_are_those_of_the_stream(told):
  for name, values in told.played.counts._asdict().items():
    if name == "overflow":
      continue
    np.testing.assert_array_equal(
      values, told.trace.counts[name][:, :, 0], err_msg=name
    )


def test_the_table_is_that_of_the_stream(told):
  mine, theirs = told.played.state.policy.table, told.state.policy.table
  np.testing.assert_array_equal(mine.num, theirs.num)
  clusters = int(np.max(np.asarray(mine.num)))
  for name in ("code", "count"):
    np.testing.assert_array_equal(
      np.asarray(getattr(mine, name))[..., :clusters],
      np.asarray(getattr(theirs, name))[..., :clusters],
    )


def test_curves_of_a_run_are_its_own_counts(told):
  """The closed loop: what the run asked for, read at its own thresholds."""
  choice = curves_lib.StaticChoice(hamming_threshold=10)
  curves = curves_lib.of_recording(
    told.recording, [choice], np.array([0.1, 0.2])
  )
  ratio = trace_lib.retrieval_ratio(told.trace)
  for index, stage in enumerate(curves_lib.STAGES):
    kept = np.mean(curves.kept[0, index, ..., 1])
    assert kept == pytest.approx(ratio[stage], rel=1e-6)


def test_mass_and_error_against_numpy(told):
  """One frame in the middle, all heads, in float64."""
  recording, played = told.recording, told.played
  chunks = played.chunks
  index = [i for i, c in enumerate(chunks) if c.stage == "frame"][6]
  chunk, layer = chunks[index], 0
  past = np.concatenate(
    [np.arange(c.first, c.last) for c in chunks[:index] if not c.undone]
  )
  own = np.arange(chunk.first, chunk.last)
  group = told.decoder.group_size
  for head in range(told.decoder.num_heads):
    kv = head // group
    query = recording.query[layer, head, own].astype(np.float64)
    key = recording.key[layer, kv].astype(np.float64)
    value = recording.value[layer, kv].astype(np.float64)
    scores = query @ key[np.concatenate([past, own])].T
    scores /= np.sqrt(query.shape[1])
    mask = np.tril(np.ones((len(own), len(own)), bool))
    scores[:, len(past) :][~mask] = -np.inf
    bits = np.asarray(bitmap.unpack(jnp.asarray(played.slots[index, layer])))
    chosen = bits[kv, _slots_of(chunks, index)]
    weights = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    there = weights[:, : len(past)]
    mass = np.mean(there[:, chosen].sum(1) / there.sum(1))
    np.testing.assert_allclose(played.mass[index, layer, head], mass, rtol=1e-4)
    values = value[np.concatenate([past, own])]
    less = weights * np.concatenate([chosen, np.ones(len(own), bool)])
    less /= less.sum(1, keepdims=True)
    full = weights @ values
    error = np.linalg.norm(less @ values - full) / np.linalg.norm(full)
    np.testing.assert_allclose(
      played.error[index, layer, head], error, rtol=1e-3
    )


def _slots_of(chunks, index):
  """Slots of the past's tokens; chunks are padded to their stage's longest."""
  longest = {}
  for chunk in chunks:
    size = chunk.last - chunk.first
    longest[chunk.stage] = max(longest.get(chunk.stage, 0), size)
  slots, cursor = [], 0
  for chunk in chunks[:index]:
    if chunk.undone:
      continue
    size = chunk.last - chunk.first
    slots.extend(range(cursor, cursor + size))
    cursor += size
  return slots


def frames_of(recording):
  """The frames alone, which need one program."""
  chosen = recording.kind == 1
  return recording_lib.Recording(
    *(array[:, :, chosen] for array in recording[:3]),
    *(array[chosen] for array in recording[3:8]),
    recording.frequencies,
    recording.query_next[:, :, chosen],
  )


@pytest.mark.parametrize("query", ["own", "next"])
def test_looking_ahead_is_that_of_the_stream(query):
  policy = policy_syntax.make_policy("resv(wicsum_ratio=0.2)")
  config = stream_state.StreamConfig(
    decoder=testing.decoder_config(num_layers=3),
    capacity=100,
    frame_tokens=6,
    question_chunk=4,
    lookahead=1,
    lookahead_query=query,
    observe=observing.record_chunk,
  )
  params = testing.decoder_parameters(config.decoder)
  driver, run = testing.start(
    config, policy, params, block_frames=4, max_tokens=3, stages=("frame",)
  )
  frames = testing.hidden_frames(config, 8)
  run = driver_lib.feed_frames(driver, run, frames, range(8))
  counts = driver_lib.finish_trace(driver, run).counts
  model = types.SimpleNamespace(
    config=types.SimpleNamespace(decoder=config.decoder)
  )
  recording = recording_lib.from_arrays(
    session_report.record_arrays(model, run.observations)
  )
  play = lambda query_: replay.replay(
    policy, recording, lookahead=1, lookahead_query=query_, measure=False
  )
  for name, values in play(query).counts._asdict().items():
    if name != "overflow":
      np.testing.assert_array_equal(values, counts[name][:, :, 0], err_msg=name)
  other = play("next" if query == "own" else "own").counts
  assert np.any(other.past_attended != counts["past_attended"][:, :, 0])


def test_a_sweep_is_many_replays(told):
  recording = frames_of(told.recording)
  ratios = [0.0, 0.2, 1.0]
  knobs = {
    "wicsum_ratio": jnp.array(ratios),
    "hamming_threshold": jnp.full((3,), 10),
  }
  swept = replay.replay(
    told.policy, recording, knobs=knobs, sweep=True, measure=False
  )
  one = replay.replay(told.policy, recording, measure=False)
  np.testing.assert_array_equal(
    swept.counts.past_attended[:, 1], one.counts.past_attended
  )
  kept = swept.counts.past_attended.sum(axis=(0, 2, 3))
  assert kept[0] < kept[1] < kept[2]
  np.testing.assert_array_equal(
    swept.counts.past_attended[:, 2], swept.counts.past_seen[:, 2]
  )


def test_everything_kept_is_without_error(told):
  policy = policy_syntax.make_policy("full")
  played = replay.replay(policy, told.recording)
  past = played.counts.past_seen[:, 0, 0] > 0
  np.testing.assert_allclose(played.mass[past], 1.0, atol=1e-5)
  np.testing.assert_allclose(played.error, 0.0, atol=1e-5)


def test_rotation_is_undone_with_the_recorded_frequencies(told):
  """hash_keys=raw sees what the model's unrotated keys are."""
  text = POLICY.replace(")", ", hash_keys=raw)")
  recording = frames_of(told.recording)
  played = replay.replay(
    policy_syntax.make_policy(text), recording, measure=False
  )
  angle = recording.position[:, None] * recording.frequencies
  raw = rotary.rotate(jnp.asarray(recording.key), -angle[None, None])
  again = replay.replay(
    told.policy,
    recording._replace(key=np.asarray(raw)),
    measure=False,
  )
  mine = np.asarray(played.state.policy.table.num)
  np.testing.assert_array_equal(mine, again.state.policy.table.num)


def test_a_recording_is_read_from_its_file(told, tmp_path):
  np.savez(tmp_path / "record.npz", **told.arrays)
  loaded = recording_lib.load(tmp_path / "record.npz")
  jax.tree.map(np.testing.assert_array_equal, loaded, told.recording)


@pytest.mark.parametrize("content", [None, b"", b"no archive", "half"])
def test_bad_recordings_are_refused(told, tmp_path, content):
  path = tmp_path / "record.npz"
  if content == "half":
    np.savez(path, query=told.arrays["query"])
  elif content is not None:
    path.write_bytes(content)
  with pytest.raises(errors.InputError, match="--record"):
    recording_lib.load(path)


def test_policies_that_evict_are_refused(told):
  policy = policy_syntax.make_policy("streaming_llm")
  with pytest.raises(ValueError, match="run the stream itself"):
    replay.replay(policy, told.recording)
