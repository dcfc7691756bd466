r"""How far a policy takes a model from what it says when it reads everything.

  python experiments/evaluate_fidelity.py --checkpoint DIR --video clip.mp4 \
      --policy "full | resv | sliding_window" --question "12: what happens?" \
      --out runs/fidelity

For any checkpoint and any video, without labels and without a judge. `full`
streams the video and answers the questions; each policy then streams the same
frames and is fed the same answers (teacher forcing), because distributions can
be compared behind the same tokens only. At the last token of every frame, the
last token of every question and every token of an answer:

  KL(full || policy) of the next token's distribution, in nats; same likeliest
  token; relative error of the attention output before the output projection,
  mean over layers, accumulated (against `full`) and alone (this layer's choice,
  against all of its own cache; - where the policy evicts); past read.

metrics.json has all of it by layer, layers.csv and positions.csv as tables.
What differs under `full` itself is nothing, by definition; it is in the table
for its share and so that a wrong set-up shows.

Ctrl-C ends after the block under way; finished policies are in --out, and the
same command with --resume skips them (`full` runs again: it is the reference).

Hardware: any JAX device. Minutes: seconds a policy for a clip of a minute with
the small model on two CPU cores; one prefill of the video a policy else.
"""

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tqdm
from absl import flags

from vrex_jax import command
from vrex_jax import interrupt
from vrex_jax import model_flags
from vrex_jax import model_source
from vrex_jax import plotting
from vrex_jax import policy as policy_lib
from vrex_jax import policy_syntax
from vrex_jax import questions as questions_lib
from vrex_jax import session_plan
from vrex_jax import video
from vrex_jax.errors import InputError
from vrex_jax.evaluation import fidelity_report
from vrex_jax.evaluation import following
from vrex_jax.study import resume

_VIDEO = flags.DEFINE_string("video", None, "Video file.")
_CHECKPOINT = model_flags.checkpoint()
_PRESET = model_flags.preset()
_POLICY = flags.DEFINE_string(
  "policy", "full | resv | sliding_window", "KV-cache policies, apart by |."
)
_FPS = model_flags.fps()
_MAX_FRAMES = model_flags.max_frames()
_QUESTION = flags.DEFINE_multi_string(
  "question",
  [],
  'Repeatable: "seconds: text". Default: one at the end of the video.',
)
_MAX_TOKENS = flags.DEFINE_integer(
  "max_tokens", 32, "Longest answer of full, in tokens.", lower_bound=1
)
_LOOKAHEAD = model_flags.lookahead()
_RECENT_TOKENS = model_flags.recent_tokens()
_DTYPE = flags.DEFINE_enum(
  "dtype", "float32", ["float32", "bfloat16"], "Storage of weights and cache."
)
_SEED = flags.DEFINE_integer(
  "seed", 0, "Of random weights.", 0, command.MAX_SEED
)
_RESUME = flags.DEFINE_bool(
  "resume", False, "Take over the policies that the same command left in --out."
)
_OUT = flags.DEFINE_string(
  "out", None, "Folder for the results; only printed without it."
)

_ASKED = "what is happening?"
_ANSWER = "the block under way is finished first; Ctrl-C again ends at once"
_FILES = (
  "config.toml", "metrics.json", "layers.csv", "positions.csv", "plot.png"
)  # fmt: skip


def _check_flags() -> None:
  if _VIDEO.value is None:
    raise InputError(
      "--video is missing; it must name a video file: for example"
      " --video=clip.mp4"
    )
  model_source.check_shape(_CHECKPOINT.value, _PRESET.value)
  command.check_out(_OUT.value, _FILES, resume=_RESUME.value)
  if _OUT.value is not None:
    plotting.check_installed()


def _source() -> session_plan.Source:
  if not video.opens_again(_VIDEO.value):
    raise InputError(
      f"--video is {_VIDEO.value}, a pipe, which can be read only once, and"
      " every policy reads it: save the stream to a file"
    )
  source = session_plan.find_source(
    _VIDEO.value, fps=_FPS.value, max_frames=_MAX_FRAMES.value
  )
  if source.end_s is None:
    raise InputError(
      f"--video is {_VIDEO.value}, which has no known end; policies are"
      " compared on the same frames: give --max_frames"
    )
  return source


def _questions(
  source: session_plan.Source,
) -> tuple[questions_lib.Question, ...]:
  asked = questions_lib.parse_questions(_QUESTION.value)
  return asked or (questions_lib.Question(source.end_s, _ASKED),)


def _plans(
  model, policies: Sequence[policy_lib.KVPolicy], source: session_plan.Source
) -> list[session_plan.Plan]:
  options = session_plan.Options(
    max_tokens=_MAX_TOKENS.value,
    dtype=_DTYPE.value,
    lookahead=_LOOKAHEAD.value,
    recent_tokens=_RECENT_TOKENS.value,
  )
  return [
    session_plan.plan_stream(model, policy, source, _questions(source), options)
    for policy in policies
  ]


def _answers(
  model, plan: session_plan.Plan, reference: following.Reference
) -> list[dict[str, Any]]:
  return [
    {
      "time_s": question.time_s,
      "question": question.text,
      "answer": model.tokenizer.decode(ids),
      "tokens": ids,
    }
    for question, ids in zip(plan.questions, reference.answers, strict=True)
  ]


def _follow_all(
  model,
  policies: Sequence[policy_lib.KVPolicy],
  plans: Sequence[session_plan.Plan],
  rows: dict[str, dict[str, Any]],
  write: Callable[[], None],
) -> bool:
  """Fills in the rows that are missing; says whether there were any."""
  full = policies[0]
  missing = [one.name for one in policies if one.name not in rows]
  if not missing:
    return False
  runs = len({full.name, *missing})
  with (
    interrupt.graceful(_ANSWER) as stopped,
    tqdm.tqdm(
      total=runs * plans[0].source.expected, unit="frame", disable=None
    ) as bar,
    tempfile.TemporaryFile() as file,
  ):
    hooks = {"told": bar.update, "stopped": stopped}
    bar.set_description(full.name)
    found = following.reference_of(model, full, plans[0], file, **hooks)
    if found is None:
      return True
    reference, followed = found
    given = _answers(model, plans[0], reference)
    rows[full.name] = fidelity_report.row(full.name, followed, given)
    for policy, plan in zip(policies[1:], plans[1:], strict=True):
      if policy.name in rows:
        continue
      bar.set_description(policy.name)
      followed = following.follow_policy(
        model, policy, plan, reference, **hooks
      )
      if followed is None:
        break
      rows[policy.name] = fidelity_report.row(policy.name, followed, given)
      write()
  return True


def main(arguments: Sequence[str]) -> None:
  del arguments
  started = time.time()
  _check_flags()
  asked = policy_syntax.parse_policies(_POLICY.value)
  full = policy_syntax.make_policy("full")
  policies = [full, *(one for one in asked if one.name != "full")]
  rows: dict[str, dict[str, Any]] = {}
  if _RESUME.value:
    left = resume.rows_left(_OUT.value, command.settings())
    rows = {row["policy"]: row for row in left}
    print(f"taken over from {_OUT.value}: {len(rows)} policies")
  source = _source()
  model = model_source.load_model(
    _CHECKPOINT.value,
    _PRESET.value,
    dtype=_DTYPE.value,
    seed=_SEED.value,
    report=lambda text: print(f"model  {text}"),
  )

  def write() -> None:
    if _OUT.value is not None:
      _write(policies, rows, started)

  plans = _plans(model, policies, source)
  is_new = _follow_all(model, policies, plans, rows, write)
  done = [rows[one.name] for one in policies if one.name in rows]
  if not done:
    raise KeyboardInterrupt
  if is_new:
    write()
  print(fidelity_report.table(done))
  if _OUT.value is not None:
    print(f"written to {_OUT.value}: {', '.join(_FILES)}")
  if len(done) < len(policies):
    print(f"interrupted after {len(done)} of {len(policies)} policies")


def _write(
  policies: Sequence[policy_lib.KVPolicy],
  rows: Mapping[str, dict[str, Any]],
  started: float,
) -> None:
  done = [rows[one.name] for one in policies if one.name in rows]
  command.write_study(
    _OUT.value,
    done,
    seed=_SEED.value,
    started=started,
    named={"interrupted": len(done) < len(policies)},
    tables={
      "layers.csv": fidelity_report.layer_rows(done),
      "positions.csv": fidelity_report.position_rows(done),
    },
    others={"plot.png": lambda path: fidelity_report.save_plot(done, path)},
    quiet=True,
  )


if __name__ == "__main__":
  command.run(main)
