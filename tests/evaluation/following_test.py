"""A policy that is fed the answers of `full`, compared with it."""

import dataclasses
import io
import tempfile
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import films
from vrex_jax import model_source
from vrex_jax import policy_syntax
from vrex_jax import questions as questions_lib
from vrex_jax import session_frames
from vrex_jax import session_plan
from vrex_jax import video
from vrex_jax.evaluation import fidelity_report
from vrex_jax.evaluation import following
from vrex_jax.models import decoder as decoder_lib
from vrex_jax.models import presets
from vrex_jax.models import video_llm

FRAMES, TOKENS = 6, 16
QUESTIONS = questions_lib.parse_questions(["0.6: what?", "3: and now?"])
OPTIONS = session_plan.Options(
  block_frames=2, max_tokens=2, question_chunk=16, system=""
)


@pytest.fixture(scope="module")
def model():
  """Random weights, two layers; logits far from uniform."""
  tiny = presets.preset("tiny")
  config = dataclasses.replace(
    tiny,
    decoder=dataclasses.replace(
      tiny.decoder, num_layers=2, tie_embeddings=False
    ),
    vision=dataclasses.replace(tiny.vision, num_layers=1),
  )
  params = video_llm.random_parameters(config, jax.random.key(3))
  head = params["decoder"]["lm_head"]
  params["decoder"]["lm_head"] = jax.tree.map(lambda leaf: 30 * leaf, head)
  loaded = model_source.load_model(None, "tiny", dtype="float32", seed=0)
  return loaded._replace(config=config, params=params, stop_ids=())


@pytest.fixture(scope="module")
def source(tmp_path_factory):
  path = tmp_path_factory.mktemp("film") / "film.mp4"
  random = np.random.default_rng(0)
  pictures = random.integers(0, 255, (FRAMES, 32, 32, 3), np.uint8)
  films.write(path, list(pictures), fps=2)
  return session_plan.find_source(str(path), fps=2)


def plan_of(model, source, text):
  policy = policy_syntax.make_policy(text)
  plan = session_plan.plan_stream(model, policy, source, QUESTIONS, OPTIONS)
  return policy, plan


@pytest.fixture(scope="module")
def full(model, source):
  with tempfile.TemporaryFile() as file:
    reference, followed = following.reference_of(
      model, *plan_of(model, source, "full"), file
    )
    yield types.SimpleNamespace(reference=reference, followed=followed)


def follow(model, source, full, text):
  policy, plan = plan_of(model, source, text)
  return following.follow_policy(model, policy, plan, full.reference)


@pytest.fixture(scope="module")
def resv(model, source, full):
  return follow(
    model, source, full, "resv(wicsum_ratio=0.1, table_capacity=128)"
  )


@pytest.fixture(scope="module")
def wide(model, source, full):
  return follow(model, source, full, "sliding_window(frames=99)")


def test_last_tokens_of_frames_questions_and_answers_are_compared(full):
  where = [one.where for one in full.followed.compared]
  kinds = [(one.stage, one.question, one.token) for one in where]
  frame = ("frame", -1, 0)
  asked = lambda number: [
    ("question", number, 0), ("answer", number, 1), ("answer", number, 2)
  ]  # fmt: skip
  assert kinds == [frame] * 2 + asked(0) + [frame] * 4 + asked(1)
  times = [one.time_s for one in where if one.stage == "frame"]
  assert times == [0.0, 0.5, 1.0, 1.5, 2.0, 2.5]


def test_full_predicts_what_the_decoder_does_of_everything_at_once(
  model, source, full
):
  _, plan = plan_of(model, source, "full")
  frames = video.read_frames(source.path, fps=2)
  pixels = np.stack(
    [one.pixels for one in session_frames.samples(frames, model)]
  )
  module = decoder_lib.Decoder(model.config.decoder, jnp.float32)
  answer = full.reference.answers[1]

  @jax.jit
  def predict(params):
    variables = {"params": params["decoder"]}
    embed = lambda ids: module.apply(
      variables, jnp.asarray([ids], jnp.int32), method="embed"
    )
    seen, _ = video_llm.embed_frame_tokens(
      model.config, params, pixels, np.zeros(len(pixels), bool)
    )
    parts = [seen.reshape(1, -1, seen.shape[-1])]
    parts += [embed(plan.text.questions[1]), embed(answer)]
    if plan.text.prompt:
      parts.insert(0, embed(plan.text.prompt))
    return module.apply(variables, jnp.concatenate(parts, axis=1))

  logits = np.asarray(predict(model.params))[0]
  last = [len(logits) - 1 - back for back in (2, 1, 0)]
  full.reference.rewind()
  kept = [full.reference.read(index)[0] for index in range(len(full.reference))]
  np.testing.assert_allclose(kept[-3:], logits[last], rtol=2e-4, atol=2e-3)
  assert [int(one.argmax()) for one in kept[-3:-1]] == answer


def test_a_policy_that_reads_everything_is_full(wide):
  """Another program, one that evicts, over the same tokens."""
  for one in wide.compared:
    assert one.agrees
    assert abs(one.kl) < 1e-7
    np.testing.assert_array_less(one.error, 1e-4)
    assert np.isnan(one.alone).all()


def test_full_differs_from_itself_in_nothing(full):
  assert all(one.kl == 0.0 and one.agrees for one in full.followed.compared)
  alone = np.stack([one.alone for one in full.followed.compared])
  assert (alone < 1e-5).all()


def test_in_the_first_layer_nothing_has_accumulated(resv):
  """Its queries and keys are those of `full`; later ones are not."""
  error = np.stack([one.error for one in resv.compared])
  alone = np.stack([one.alone for one in resv.compared])
  np.testing.assert_allclose(error[:, 0], alone[:, 0], atol=1e-5)
  assert error[:, 0].max() > 0.05
  assert np.abs(error[:, 1] - alone[:, 1]).max() > 1e-3
  assert max(one.kl for one in resv.compared) > 1e-4


def test_a_row_has_its_fields_and_the_tables_all_tokens(full, resv, wide):
  followed = {"full": full.followed, "resv": resv, "window": wide}
  rows = [fidelity_report.row(*named) for named in followed.items()]
  for row in rows:
    assert tuple(row) == fidelity_report.FIELDS
    assert row["positions"] == {"frame": 6, "question": 2, "answer": 4}
  assert rows[0]["retrieval_ratio"]["frame"] == 1.0
  assert rows[1]["retrieval_ratio"]["frame"] < 1.0
  positions = fidelity_report.position_rows(rows)
  assert len(positions) == 3 * 12
  frames = [
    line["kl"]
    for line in positions
    if (line["policy"], line["stage"]) == ("resv", "frame")
  ]
  assert np.mean(frames) == pytest.approx(rows[1]["kl"]["frame"])
  layers = fidelity_report.layer_rows(rows)
  assert len(layers) == 3 * 3 * 2
  text = fidelity_report.table(rows).splitlines()
  assert len(text) == 1 + 9
  assert text[-1].split()[-2] == "-"


def test_the_plot_is_a_picture(full, resv, tmp_path):
  pytest.importorskip("matplotlib")
  rows = [
    fidelity_report.row("full", full.followed),
    fidelity_report.row("resv", resv),
  ]
  fidelity_report.save_plot(rows, tmp_path / "plot.png")
  assert (tmp_path / "plot.png").read_bytes()[1:4] == b"PNG"


def test_a_reference_gives_back_what_was_added_and_no_more():
  random = np.random.default_rng(0)
  tokens = [
    (random.random(3, np.float32), random.random((2, 2, 4), np.float32))
    for _ in range(2)
  ]
  reference = following.Reference(io.BytesIO())
  for token in tokens:
    reference.add(*token)
  for _ in range(2):
    reference.rewind()
    for index, token in enumerate(tokens):
      for kept, given in zip(reference.read(index), token, strict=True):
        np.testing.assert_array_equal(kept, given)
  with pytest.raises(ValueError, match="goes on after 2 tokens"):
    reference.read(2)


def test_ctrl_c_leaves_nothing(model, source):
  policy, plan = plan_of(model, source, "full")
  found = following.reference_of(
    model, policy, plan, io.BytesIO(), stopped=lambda: True
  )
  assert found is None
