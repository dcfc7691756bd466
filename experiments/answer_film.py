r"""Questions on one film, answered under several policies: who saw what.

  python -m vrex_jax.tasks.rooms_film --out runs/rooms.mp4
  python experiments/answer_film.py --film runs/rooms.mp4 \
      --policy "full | resv" --checkpoint DIR

The film is decoded and streamed frame by frame under every policy; its
questions (a JSON beside it) are asked at their times, each undone before the
next. Each line is a question with the frames that show its answer, what each
policy said (wrong answers in brackets), how much of these frames it read, and
the frames it read most. The last lines count right answers, and what they cost.

Hardware: any JAX device. Minutes: under one on two cores.
"""

import pathlib
from collections.abc import Sequence

import tqdm
from absl import flags

from vrex_jax import command
from vrex_jax import model_flags
from vrex_jax import policy_syntax
from vrex_jax.errors import InputError
from vrex_jax.evaluation import cell
from vrex_jax.evaluation import film_table
from vrex_jax.evaluation import streaming
from vrex_jax.evaluation import words
from vrex_jax.tasks import rooms_episodes
from vrex_jax.tasks import rooms_film

_FILM = flags.DEFINE_string("film", None, "mp4 of vrex_jax.tasks.rooms_film.")
_CHECKPOINT = model_flags.checkpoint()
_POLICY = flags.DEFINE_string(
  "policy", "full | resv", "KV-cache policies, apart by |."
)

_LINES = flags.DEFINE_integer(
  "lines", 16, "Questions shown, at most; all are counted.", lower_bound=1
)


def main(arguments: Sequence[str]) -> None:
  del arguments
  if _FILM.value is None:
    raise InputError(
      "--film is missing; a film with questions is needed: write one with"
      " python -m vrex_jax.tasks.rooms_film --out runs/rooms.mp4"
    )
  policies = policy_syntax.parse_policies(_POLICY.value)
  film = rooms_film.load_film(pathlib.Path(_FILM.value))
  model, ids = words.load_rooms_model(_CHECKPOINT.value)
  shape = rooms_episodes.EpisodeConfig(frames=film.frames)
  options = streaming.StreamOptions(batch=1)
  said, rows = {}, []
  with tqdm.tqdm(
    total=film.frames * len(policies), unit="frame", disable=None
  ) as bar:
    for policy in policies:
      bar.set_description(f"{policy.name}, compiling")
      group = streaming.compile_group(model, [policy], options, shape)
      bar.set_description(policy.name)
      (outcome,) = streaming.run_batch(
        model, group, options, [film], 0, bar.update
      )
      said[policy.name.partition("(")[0]] = outcome.said
      rows.append(
        cell.row(
          group.prefill,
          [outcome],
          frames=film.frames,
          visible=shape.visible,
          word_ids=ids,
        )
      )
  by_id = {token: word for word, token in ids.items()}
  print(film_table.answers(said, by_id, film.fps, _LINES.value))
  print()
  print(film_table.totals(rows))


if __name__ == "__main__":
  command.run(main)
