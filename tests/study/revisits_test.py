"""Same-scene share of clusters, against a double loop."""

import json

import numpy as np
import pytest

from vrex_jax import errors
from vrex_jax.study import revisits

SEGMENTS = [
  revisits.Segment("a", 0.0, 1.0),
  revisits.Segment("b", 1.0, 2.0),
  revisits.Segment("a", 2.0, 3.0),
  revisits.Segment("c", 3.0, 4.0),
  revisits.Segment("b", 4.0, 5.0),
]


def by_hand(member, time_s):
  segment = time_s.astype(int)
  scene = [SEGMENTS[index].scene for index in segment]
  shares = []
  for head in member.reshape(-1, member.shape[-1]):
    for token, cluster in enumerate(head):
      earlier = [
        other
        for other in range(len(head))
        if head[other] == cluster and segment[other] < segment[token]
      ]
      seen = scene[token] in [s.scene for s in SEGMENTS[: segment[token]]]
      if cluster >= 0 and seen and earlier:
        same = [scene[other] == scene[token] for other in earlier]
        shares.append(np.mean(same))
  return np.mean(shares), len(shares)


def test_share_is_that_of_a_double_loop():
  random = np.random.default_rng(0)
  member = random.integers(-1, 6, (2, 3, 50))
  time_s = np.sort(random.uniform(0, 5, 50))
  found = revisits.same_scene_lift(member, time_s, SEGMENTS)
  share, tokens = by_hand(member, time_s)
  np.testing.assert_allclose(found.share, share)
  assert found.tokens == tokens
  assert 0.5 < found.lift < 2.0  # members are random: no scene is found again


def test_clusters_of_scenes_are_found():
  time_s = np.arange(50) / 10
  scene = np.array([ord(SEGMENTS[int(t)].scene) - ord("a") for t in time_s])
  member = np.broadcast_to(scene, (2, 2, 50))
  found = revisits.same_scene_lift(member, time_s, SEGMENTS)
  assert found.share == 1.0
  assert found.per_layer == [1.0, 1.0]
  assert found.lift > 1.5


@pytest.mark.parametrize("clusters", [1, 3, 40])
def test_clusters_that_know_no_scene_have_lift_1(clusters):
  """Films of random scenes, with clusters that follow the scenes of none."""
  random = np.random.default_rng(0)
  time_s = np.arange(100) / 20
  member = random.integers(0, clusters, (1, 2, 100))
  names = [one.scene for one in SEGMENTS]
  hits = expected = 0.0
  for seed in range(200):
    film = [
      one._replace(scene=scene)
      for one, scene in zip(SEGMENTS, random.permutation(names), strict=True)
    ]
    found = revisits.same_scene_lift(
      member, time_s, film, shuffles=20, seed=seed
    )
    hits += found.share * found.tokens
    expected += found.shuffled * found.tokens
  assert hits / expected == pytest.approx(1.0, rel=0.03)


def test_tokens_of_no_segment_are_left_out():
  film = [one._replace(end_s=one.end_s - 0.5) for one in SEGMENTS]
  random = np.random.default_rng(0)
  member = random.integers(-1, 6, (2, 3, 60))
  time_s = np.sort(random.uniform(-0.5, 5.5, 60))
  inside = (time_s >= 0) & (time_s < 5) & (time_s % 1 < 0.5)
  assert 0 < inside.sum() < 50
  found = revisits.same_scene_lift(member, time_s, film)
  same = revisits.same_scene_lift(member[..., inside], time_s[inside], film)
  assert found == same
  share, tokens = by_hand(member[..., inside], time_s[inside])
  np.testing.assert_allclose(found.share, share)
  assert found.tokens == tokens


def test_the_first_revisit():
  assert revisits.first_revisit_s(SEGMENTS) == 2.0
  assert revisits.first_revisit_s(SEGMENTS[:2]) == float("inf")


def segments_file(*times):
  segments = [
    {"scene": "a", "start_s": start_s, "end_s": end_s}
    for start_s, end_s in times
  ]
  return json.dumps({"segments": segments})


@pytest.mark.parametrize(
  "content",
  [
    "",
    "[]",
    "{}",
    '{"segments": []}',
    '{"segments": [{"scene": "a"}]}',
    '{"segments": {"scene": "a"}}',
    segments_file((1, 2), (0, 1)),
    segments_file((0, 2), (1, 3)),
    segments_file((1, 0)),
    segments_file((0, float("nan"))),
    segments_file((0, float("inf"))),
  ],
)
def test_bad_annotations_are_refused(tmp_path, content):
  path = tmp_path / "a.json"
  path.write_text(content)
  with pytest.raises(errors.InputError, match="segments"):
    revisits.read_segments(path)


def test_annotations_are_read(tmp_path):
  path = tmp_path / "a.json"
  path.write_text(json.dumps({"segments": [one._asdict() for one in SEGMENTS]}))
  assert revisits.read_segments(path) == SEGMENTS
