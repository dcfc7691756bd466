"""Parts of a comparison of policies; rows are added as they are found.

  match   doses of every case, on held-out streams
  qa      the rooms task, plain and disturbed        ─┐
  clip    fidelity, fetches, first token              ├─ at these doses
  step    CPU time of a decoder step, choosing apart ─┘  (forced to the share)

Every row says its part and its case, and what is there already is left alone:
that is all a run needs to be taken up again.
"""

import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import tqdm

from vrex_jax import disturbing
from vrex_jax import interrupt
from vrex_jax import policy as policy_lib
from vrex_jax import policy_syntax
from vrex_jax import session_plan
from vrex_jax.benchmark import cell as benchmark_cell
from vrex_jax.benchmark import plans
from vrex_jax.errors import InputError
from vrex_jax.evaluation import following
from vrex_jax.evaluation import rooms_cells
from vrex_jax.evaluation import streaming
from vrex_jax.models import checkpoint as checkpoint_lib
from vrex_jax.study import compare_clip
from vrex_jax.study import compare_step
from vrex_jax.study import matched
from vrex_jax.study import matching
from vrex_jax.study import triple as triple_lib
from vrex_jax.tasks import rooms_episodes as episodes_lib

__all__ = [
  "FULL",
  "Ledger",
  "Rooms",
  "clip",
  "match",
  "qa",
  "step",
  "step_policies",
]

FULL = {"method": "full", "variant": "", "share": None}
"""The case of `full`."""
_HELD_OUT_STREAMS = 2
_CASE = ("method", "variant", "share")


class Ledger(NamedTuple):
  """Dynamic. Rows so far, and what is done with them.

  Attributes:
    rows: of all parts; only added to.
    write: keeps them.
    stopped: has the user asked to end?
  """

  rows: list[dict[str, Any]]
  write: Callable[[], None]
  stopped: Callable[[], bool]

  def find(self, part: str, case: Mapping[str, Any], **more: Any) -> Any:
    """The row of a part and case; None where there is none."""
    wanted = {"part": part, **case, **more}
    for row in self.rows:
      if all(row.get(name) == value for name, value in wanted.items()):
        return row
    return None

  def add(self, rows: Iterable[dict[str, Any]]) -> None:
    """Adds rows and keeps them."""
    self.rows.extend(rows)
    self.write()


class Rooms(NamedTuple):
  """Static. Streams of the rooms task, and the model.

  Attributes:
    model: weights and tokenizer.
    word_ids: token of every word.
    shape: of the streams.
    streams: how many.
    batch: side by side.
    seed: of the streams.
  """

  model: checkpoint_lib.Checkpoint
  word_ids: Mapping[str, int]
  shape: episodes_lib.EpisodeConfig
  streams: int
  batch: int
  seed: int


def match(
  rooms: Rooms,
  cases: Sequence[matched.Case],
  ledger: Ledger,
  *,
  rounds: int = 8,
) -> None:
  """Finds the doses of all cases.

  Args:
    rooms: task and model.
    cases: which.
    ledger: gets a row a case: doses, share reached by stage, runs.
    rounds: of a search, at most.
  """
  past = matched.past_of(rooms.model, rooms.shape.frames)
  options = streaming.StreamOptions(batch=_HELD_OUT_STREAMS)
  streams = lambda policy: matched.held_out(
    rooms.model, policy, options, rooms.shape, rooms.seed
  )
  missing = [one for one in cases if not ledger.find("match", one._asdict())]
  with tqdm.tqdm(missing, unit="case", disable=None) as bar:
    for case in bar:
      if ledger.stopped():
        return
      bar.set_description(f"match {case.method} {case.variant} {case.share}")
      found = matched.find_doses(case, past, streams, rounds=rounds)
      row = {"part": "match", **case._asdict(), **found._asdict()}
      ledger.add([row])


def qa(
  rooms: Rooms,
  cases: Sequence[matched.Case],
  ledger: Ledger,
  disturbances: Mapping[str, disturbing.Disturbance | None],
  *,
  memory_bytes: float,
) -> None:
  """The rooms task under all cases that were matched.

  Cases of one share that prefill densely share their prefill.

  Args:
    rooms: task and model.
    cases: which.
    ledger: gets a row a case and disturbance: `evaluation.cell.FIELDS`, the
      share reached (here and on held-out streams), the triple.
    disturbances: by name, None for none.
    memory_bytes: for the triple.
  """
  full = policy_syntax.make_policy("full")
  past = matched.past_of(rooms.model, rooms.shape.frames)
  policies = _policies(cases, past, ledger)
  for name, disturb in disturbances.items():
    options = streaming.StreamOptions(batch=rooms.batch, disturb=disturb)
    found: rooms_cells.Rows = {
      (row["policy"], row["frames"]): row
      for row in ledger.rows
      if row["part"] == "qa" and row["disturb"] == name
    }

    def write(name: str = name, found: rooms_cells.Rows = found) -> None:
      new = []
      for case, policy in [(FULL, full), *_dicts(policies)]:
        row = found.get((policy.name, rooms.shape.frames))
        if row and not ledger.find("qa", case, disturb=name):
          new.append(_qa_row(rooms, case, row, name, ledger, memory_bytes))
      ledger.add(new)

    for share in dict.fromkeys(case.share for case in policies):
      if ledger.stopped():
        return
      group = [one for case, one in policies.items() if case.share == share]
      rooms_cells.evaluate(
        rooms.model,
        [(policy, rooms.shape) for policy in (full, *group)],
        options,
        found,
        write,
        streams=rooms.streams,
        word_ids=rooms.word_ids,
        seed=rooms.seed,
        film=False,
        stopped=ledger.stopped,
      )
    write()


def _policies(
  cases: Sequence[matched.Case], past: matching.Past, ledger: Ledger
) -> dict[matched.Case, policy_lib.KVPolicy]:
  """Policies of the cases that have doses."""
  rows = {case: ledger.find("match", case._asdict()) for case in cases}
  return {
    case: matched.policy_of(case, past, row["doses"])
    for case, row in rows.items()
    if row is not None
  }


def _dicts(
  policies: Mapping[matched.Case, policy_lib.KVPolicy],
) -> list[tuple[dict[str, Any], policy_lib.KVPolicy]]:
  return [(case._asdict(), policy) for case, policy in policies.items()]


def _qa_row(
  rooms: Rooms,
  case: Mapping[str, Any],
  row: Mapping[str, Any],
  disturb: str,
  ledger: Ledger,
  memory_bytes: float,
) -> dict[str, Any]:
  decoder = rooms.model.config.decoder
  stage, on_held_out = "frame", None
  if case["method"] != "full":
    stage = matching.matched_stage(case["method"], case["variant"])
    on_held_out = ledger.find("match", case)["reached"].get(stage)
  token_bytes = 2 * decoder.head_dim * decoder.num_kv_heads * decoder.num_layers
  triple = triple_lib.triple(
    row,
    memory_bytes=memory_bytes,
    seen_tokens=rooms.shape.frames * rooms.model.config.tokens_per_frame,
    token_bytes=4 * token_bytes,
  )
  return {
    **row,
    "part": "qa",
    **{name: case[name] for name in _CASE},
    "disturb": disturb,
    "reached": row["retrieval_ratio"][stage],
    "reached_held_out": on_held_out,
    "triple": triple._asdict(),
  }


def clip(
  model: checkpoint_lib.Checkpoint,
  source: session_plan.Source,
  questions: Sequence[Any],
  options: session_plan.Options,
  cases: Sequence[matched.Case],
  ledger: Ledger,
) -> None:
  """A clip under `full` and all cases that were matched.

  Args:
    model: configuration, weights, tokenizer, template.
    source: the clip; `expected` is known.
    questions: asked and undone.
    options: how to stream.
    cases: which; doses are those of the rooms task, so that the share reached
      is further from the one wanted.
    ledger: gets a row a case: `compare_clip.FIELDS`.
  """
  full = policy_syntax.make_policy("full")
  past = matched.past_of(model, source.expected or 1)
  todo = [(FULL, full), *_dicts(_policies(cases, past, ledger))]
  missing = [one for one in todo if not ledger.find("clip", one[0])]
  if not missing or ledger.stopped():
    return
  plan_of = lambda policy: session_plan.plan_stream(
    model, policy, source, questions, options
  )
  frames = len({"full", *(policy.name for _, policy in missing)})
  with (
    tempfile.TemporaryFile() as file,
    tqdm.tqdm(
      total=frames * (source.expected or 1), unit="frame", disable=None
    ) as bar,
  ):
    hooks = {"told": bar.update, "stopped": ledger.stopped}
    bar.set_description("clip, full")
    found = following.reference_of(model, full, plan_of(full), file, **hooks)
    if found is None:
      return
    reference, of_full = found
    for case, policy in missing:
      bar.set_description(f"clip, {policy.name}")
      plan = plan_of(policy)
      followed = (
        of_full
        if policy is full
        else following.follow_policy(model, policy, plan, reference, **hooks)
      )
      if followed is None:
        return
      try:
        row = compare_clip.row(model, policy, plan, followed, ledger.stopped)
      except interrupt.StoppedError:
        return
      ledger.add([{"part": "clip", **case, **row}])


def step(
  setting: benchmark_cell.Setting,
  cases: Sequence[matched.Case],
  ledger: Ledger,
  *,
  rounds: int,
) -> None:
  """Decoder steps of all methods that retrieve at frames, per KV head.

  Args:
    setting: what is measured on.
    cases: which; those of other variants than `all` are left out.
    ledger: gets a row a case: `compare_step.FIELDS`.
    rounds: of a race.
  """
  made = step_policies(setting.plan, cases)
  missing = [one for one in made if not ledger.find("step", one._asdict())]
  methods = list(dict.fromkeys(case.method for case in missing))
  with tqdm.tqdm(methods, unit="method", disable=None) as bar:
    for method in bar:
      bar.set_description(f"step, {method}")
      waiting = [case for case in missing if case.method == method]
      first = made[waiting[0]]
      if ledger.stopped():
        return
      if first.needs.evicts:
        rows = [
          compare_step.measure_evicting(
            setting, made[case], case.share, rounds=rounds
          )
          for case in waiting
        ]
      else:
        shares = [case.share for case in waiting]
        rows = compare_step.measure_forced(
          setting, first, shares, rounds=rounds
        )
      ledger.add(
        {"part": "step", **case._asdict(), **row}
        for case, row in zip(waiting, rows, strict=True)
      )


def step_policies(
  plan: plans.Plan, cases: Sequence[matched.Case]
) -> dict[matched.Case, policy_lib.KVPolicy]:
  """What the part step times: one set for each KV head, also at frames.

  Args:
    plan: what is measured.
    cases: which; those of other variants than `all` are left out.

  Raises:
    InputError: a share is of fewer tokens than a method needs.
  """
  past = matching.Past(plan.cache_tokens, plan.frame_tokens)
  found = {}
  for case in cases:
    if case.variant != "all":
      continue
    try:
      found[case] = _of_kv_heads(case, past)
    except InputError as error:
      raise InputError(
        f"--shares has {case.share}, of --cache_tokens={past.tokens} too few"
        f" for {case.method} ({error}): raise either, or leave the method out"
        " of --policies"
      ) from error
  return found


def _of_kv_heads(
  case: matched.Case, past: matching.Past
) -> policy_lib.KVPolicy:
  """The policy with one set for each KV head.

  A share that evicts is of what was seen, which is not the past here but what
  is left of it: it becomes tokens.
  """
  doses = matching.first_doses(case.share)
  tokens = max(2, round(case.share * past.tokens))
  more = {
    "h2o": {"heavy": tokens - tokens // 2, "recent": tokens // 2},
    "snapkv": {"budget": tokens},
  }.get(case.method, {})
  policy = matched.policy_of(case, past, doses, **more)
  if policy.needs.granularity == "kv":
    return policy
  return matched.policy_of(case, past, doses, **more, heads="kv")
