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


@pytest.mark.parametrize(
  "content",
  ["", "[]", "{}", '{"segments": []}', '{"segments": [{"scene": "a"}]}'],
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
