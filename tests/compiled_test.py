"""Facts about the compiled programs: memory, copies, donation, compilations.

Two layers, four KV heads and 8192 slots: a copy of the cache stands out.
"""

import jax
import numpy as np
import pytest

from vrex_jax import driver as driver_lib
from vrex_jax import policy_syntax
from vrex_jax import stream_state
from vrex_jax import testing

POLICIES = ("full", "sliding_window(frames=200)", "streaming_llm", "resv")
STAGES = ("frame", "question", "answer")

pytestmark = pytest.mark.usefixtures("fused_as_for_users")


def config_of(**changes):
  return stream_state.StreamConfig(
    decoder=testing.decoder_config(
      num_heads=8, hidden_size=64, head_dim=64, max_position_embeddings=10**6
    ),
    capacity=8192 - 32,
    frame_tokens=16,
    question_chunk=32,
    **changes,
  )


@pytest.fixture(scope="module", params=POLICIES)
def compiled(request, fused_as_for_users):
  """The driver of one policy, and an empty stream."""
  config = config_of()
  policy = policy_syntax.make_policy(request.param)
  params = testing.decoder_parameters(config.decoder)
  return testing.start(
    config, policy, params, block_frames=4, max_tokens=4, stages=STAGES
  )


def size_of(tree):
  return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))


def large_copies(program, state):
  """Instructions that copy all keys, one layer's, or a policy's large array."""
  layers, *rest = state.cache.key.shape
  leaves = [
    leaf
    for leaf in jax.tree.leaves(state.policy)
    if leaf.nbytes > 0.01 * state.cache.key.nbytes
  ]
  shapes = [
    "f32[" + ",".join(map(str, shape)) + "]"
    for shape in ((layers, *rest), (1, *rest), rest)
  ] + [
    leaf.dtype.name[0] + "32[" + ",".join(map(str, leaf.shape)) + "]"
    for leaf in leaves
  ]
  return [
    line.strip()
    for line in program.as_text().splitlines()
    if any(f"= {shape}" in line for shape in shapes)
    and (" copy(" in line or " copy-start(" in line or " concatenate(" in line)
  ]


@pytest.mark.parametrize("stage", STAGES)
def test_cache_and_tables_are_never_copied(compiled, stage):
  driver, run = compiled
  assert large_copies(driver.programs[stage], run.state) == []


@pytest.mark.parametrize("stage", STAGES)
def test_temporary_memory_is_a_small_part_of_the_state(compiled, stage):
  driver, run = compiled
  state = size_of(run.state)
  memory = driver.programs[stage].memory_analysis()
  assert run.state.cache.key.shape[:-1] == (2, 1, 4, 8192)
  assert memory.temp_size_in_bytes < 0.1 * state


@pytest.mark.parametrize("stage", STAGES)
def test_the_state_is_donated_whole(compiled, stage):
  driver, run = compiled
  memory = driver.programs[stage].memory_analysis()
  assert memory.alias_size_in_bytes >= size_of(run.state)


def test_undoing_and_compacting_copy_no_cache(compiled):
  driver, run = compiled
  cache = run.state.cache
  snapshot = driver.programs["snapshot"].memory_analysis()
  assert snapshot.output_size_in_bytes < 0.1 * size_of(run.state)
  names = ["restore"]
  if driver.policy.needs.evicts:
    names.append("compact")
  for name in names:
    program = driver.programs[name]
    memory = program.memory_analysis()
    assert large_copies(program, run.state.replace(policy=())) == []
    assert memory.temp_size_in_bytes < 0.1 * size_of(run.state)
    assert memory.alias_size_in_bytes >= size_of(cache.key) * 2


def test_a_copy_would_be_seen():
  """The same search finds the copy in a step that is not donated."""
  config = config_of()
  policy = policy_syntax.make_policy("full")
  params = testing.decoder_parameters(config.decoder)
  state = stream_state.init(config, policy, params)
  touch = jax.jit(
    lambda state_: state_.replace(
      cache=state_.cache.replace(
        key=state_.cache.key.at[0, 0, 0, 0, 0].set(1.0)
      )
    )
  )
  program = touch.lower(state).compile()
  assert large_copies(program, state) != []
  assert program.memory_analysis().alias_size_in_bytes == 0


def test_a_stream_is_compiled_once(compiled, caplog):
  """Ahead of time; later blocks and questions compile nothing at all."""
  driver, _ = compiled
  config = driver.config
  assert set(driver.compile_s) == set(STAGES)
  frames = testing.hidden_frames(config, 6)

  def watch(run):
    run = driver_lib.feed_frames(driver, run, frames, range(6))
    run, _ = driver_lib.ask(driver, run, [[1, 2, 3]])
    return driver_lib.ask(driver, run, [[4] * 40], keep=True, seed=3)[0]

  state = stream_state.init(config, driver.policy, driver.params)
  run = watch(driver_lib.Run(state))
  with jax.log_compiles(True), caplog.at_level("WARNING"):
    jax.jit(lambda x: x + 1)(np.arange(3))
    seen = len(caplog.records)
    for _ in range(2):
      run = watch(run)
  assert seen > 0
  assert [record.getMessage() for record in caplog.records[seen:]] == []
  with pytest.raises(TypeError):
    driver.programs["frame"](
      driver.params, run.state, frames[:3], np.ones(3, bool)
    )


@pytest.mark.parametrize(("policy", "arrays"), [("full", 1), ("resv", 4)])
def test_layers_take_turns_with_temporary_memory(policy, arrays):
  """Six more layers must not keep an array of the chunk's size each.

  ReSV writes all layers at once and may grow with them, by less than the
  scores of six layers.
  """

  def temporary_bytes(num_layers):
    config = stream_state.StreamConfig(
      decoder=testing.decoder_config(
        num_layers=num_layers, num_heads=8, hidden_size=64, head_dim=64
      ),
      capacity=512,
      frame_tokens=128,
      question_chunk=32,
    )
    driver, _ = testing.start(
      config,
      policy_syntax.make_policy(policy),
      testing.decoder_parameters(config.decoder),
      block_frames=1,
      max_tokens=4,
      stages=("frame",),
    )
    return driver.programs["frame"].memory_analysis().temp_size_in_bytes

  queries = 4 * 8 * 128 * 64
  assert temporary_bytes(8) - temporary_bytes(2) < arrays * queries
