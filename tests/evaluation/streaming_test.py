"""What is said on a stream is what the decoder says of all of it at once."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vrex_jax import policy_syntax
from vrex_jax import trace as trace_lib
from vrex_jax.evaluation import cell
from vrex_jax.evaluation import film_table
from vrex_jax.evaluation import report
from vrex_jax.evaluation import sharing
from vrex_jax.evaluation import streaming
from vrex_jax.evaluation import words
from vrex_jax.models import checkpoint
from vrex_jax.models import decoder as decoder_lib
from vrex_jax.models import video_llm
from vrex_jax.tasks import rooms_episodes
from vrex_jax.tasks import rooms_questions
from vrex_jax.tasks import rooms_words
from vrex_jax.training import export
from vrex_jax.training import small_model

SHAPE = rooms_episodes.EpisodeConfig(frames=64, questions=8)
OPTIONS = streaming.StreamOptions(batch=2)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
  """The shipped model's shape, less deep, with random weights from files."""
  shape = small_model.shape()
  config = dataclasses.replace(
    shape,
    decoder=dataclasses.replace(shape.decoder, num_layers=2),
    vision=dataclasses.replace(shape.vision, num_layers=1),
  )
  params = video_llm.random_parameters(config, jax.random.key(3))
  folder = tmp_path_factory.mktemp("model")
  export.export(config, params, small_model.TEMPLATE, folder)
  return checkpoint.load(folder)


@pytest.fixture(scope="module")
def ids(model):
  return words.word_ids(model, rooms_questions.WORDS, "random")


@pytest.fixture(scope="module")
def episodes():
  return [rooms_episodes.draw(SHAPE, 0, index) for index in range(2)]


def outcome(model, episodes, text):
  policy = policy_syntax.make_policy(text)
  group = streaming.compile_group(model, [policy], OPTIONS, SHAPE)
  (result,) = streaming.run_batch(model, group, OPTIONS, episodes, 0)
  return group.prefill, result


@pytest.fixture(scope="module")
def full(model, episodes):
  return outcome(model, episodes, "full")


@pytest.fixture(scope="module")
def window(model, episodes):
  return outcome(model, episodes, "sliding_window(frames=16)")


def test_every_item_of_every_stream_is_said_once(full, episodes):
  _, result = full
  asked = [
    (stream, item.kind, item.text, item.time)
    for stream, episode in enumerate(episodes)
    for items in (*episode.questions, episode.narration)
    for item in items
  ]
  said = [
    (one.stream, one.item.kind, one.item.text, one.item.time)
    for one in result.said
  ]
  assert sorted(said) == sorted(asked)


def test_full_says_what_the_decoder_says_at_once(full, episodes, model):
  """A question sees the frames up to its time, and no other question."""
  _, result = full
  decoder = decoder_lib.Decoder(model.config.decoder)
  variables = {"params": model.params["decoder"]}
  embed = lambda tokens: decoder.apply(
    variables, jnp.array([tokens]), method="embed"
  )
  hidden = []
  for episode in episodes:
    pixels = np.concatenate(list(episode.pictures(SHAPE.frames)))
    tokens = video_llm.embed_frames(model.config, model.params, pixels)
    hidden.append(
      jnp.concatenate(
        [embed([rooms_words.START]), tokens.reshape(1, -1, tokens.shape[-1])],
        axis=1,
      )
    )
  logits = jax.jit(decoder.apply)
  narrated = [logits(variables, one)[0] for one in hidden]
  last = max(one.item.time for one in result.said)
  checked = 0
  for one in result.said:
    seen = 1 + 4 * (one.item.time + 1)
    if one.item.kind == "narration":
      expected = narrated[one.stream][seen - 1]
    elif one.item.time == last:
      asked = embed(rooms_words.encode(one.item.text))
      row = jnp.concatenate([hidden[one.stream][:, :seen], asked], axis=1)
      expected = logits(variables, row)[0, -1]
    else:
      continue
    assert one.word == int(jnp.argmax(expected))
    checked += 1
  assert checked > 10


def test_recall_is_whole_under_full_and_nothing_behind_a_window(full, window):
  for one in full[1].said:
    if one.item.evidence.size and one.item.kind != "narration":
      # The frame at hand is read as the past of a question.
      np.testing.assert_array_equal(one.recall, 1.0)
  old = [one for one in window[1].said if one.item.group == "old"]
  assert old
  for one in old:
    np.testing.assert_array_equal(one.recall, 0.0)
    assert one.read[: one.item.time - 16].max() == 0.0


@pytest.mark.slow
def test_sharing_a_prefill_changes_nothing(full, episodes, model):
  """Nor do blocks of another length."""
  late = policy_syntax.make_policy("resv(stages=('question', 'answer'))")
  alone = outcome(model, episodes, "resv(stages=('question', 'answer'))")[1]
  policies = [policy_syntax.make_policy("full"), late]
  assert all(map(sharing.prefills_densely, policies))
  options = dataclasses.replace(OPTIONS, block_frames=5)
  group = streaming.compile_group(model, policies, options, SHAPE)
  shared = streaming.run_batch(model, group, options, episodes, 0)
  order = lambda said: sorted(
    (one.stream, one.item.time, one.item.text, one.word, one.read.sum())
    for one in said
  )
  for one, other in zip(shared, (full[1], alone), strict=True):
    assert order(one.said) == order(other.said)
    assert trace_lib.retrieval_ratio(one.trace) == trace_lib.retrieval_ratio(
      other.trace
    )
  ratio = trace_lib.retrieval_ratio(alone.trace)
  assert ratio["frame"] == 1.0
  assert ratio["question"] < 1.0


def test_a_row_has_its_fields_and_is_paired_with_full(full, window, ids):
  rows = [
    cell.row(driver, [result], frames=64, visible=4, word_ids=ids)
    for driver, result in (full, window)
  ]
  for row in rows:
    assert tuple(row) == cell.FIELDS
    row["minus_full"] = cell.paired(row, rows[0])
  assert rows[0]["questions"] == 16
  assert rows[0]["retrieval_ratio"]["frame"] == 1.0
  assert rows[1]["retrieval_ratio"]["frame"] < 0.6
  assert rows[1]["kv_bytes"] < rows[0]["kv_bytes"]
  assert rows[0]["minus_full"]["qa"] == {"difference": 0.0, "ci": (0.0, 0.0)}
  difference = rows[1]["minus_full"]["qa"]["difference"]
  assert difference == pytest.approx(rows[1]["qa"] - rows[0]["qa"])
  flat = report.flat_rows(rows)
  assert [line["qa"] for line in flat] == [row["qa"] for row in rows]
  assert len(report.table(rows).splitlines()) == 3
  assert "16" in film_table.totals(rows)


def test_a_film_s_table_shows_wrong_answers_in_brackets(full, window, ids):
  said = {"full": full[1].said, "window": window[1].said}
  by_id = {token: word for word, token in ids.items()}
  header, *lines = film_table.answers(
    said, by_id, fps=2.0, limit=99
  ).splitlines()
  assert "window reads most of" in header
  asked = [
    one for one in full[1].said if one.item.text and one.item.evidence.size
  ]
  assert len(lines) == len(asked)
  wrong = sum(by_id.get(one.word) != one.item.word for one in asked)
  assert sum("(" in line for line in lines) >= wrong > 0
  few = film_table.answers(said, by_id, fps=2.0, limit=5).splitlines()[1:]
  assert len(few) == 5
  assert {line.split()[0] for line in few} <= {
    line.split()[0] for line in lines
  }


def test_the_plot_is_a_picture(full, ids, tmp_path):
  pytest.importorskip("matplotlib")
  driver, result = full
  row = cell.row(driver, [result], frames=64, visible=4, word_ids=ids)
  report.save_plot([row], tmp_path / "plot.png")
  assert (tmp_path / "plot.png").read_bytes()[1:4] == b"PNG"


def test_streams_are_shared_out_evenly():
  for questions in (1, 40, 1000, 4000):
    streams, batch = cell.number_of_streams(questions, 40, 8)
    assert streams * 40 >= questions
    assert streams % batch == 0
    assert batch <= 8
