"""Clusters of all thresholds at once against the rule, token by token."""

import numpy as np
import pytest

from vrex_jax.codesign import assignment

TOKENS, BITS = 24, 32
THRESHOLDS = [0, 1, 6, 12, 33]
# Two branches of four tokens after the tenth token.
BRANCH = np.repeat([-1, 0, 1, -1], [10, 4, 4, 6]).astype(np.int32)


@pytest.fixture(scope="module")
def codes():
  """Few contents with flipped bits, so that tokens meet again: u32[1, 2, …]."""
  random = np.random.default_rng(0)
  contents = random.integers(0, 2**32, 5, np.uint64)
  flips = random.integers(0, 2, (2, TOKENS, 3)) << random.integers(
    0, BITS, (2, TOKENS, 3)
  )
  base = contents[random.integers(0, 5, TOKENS)].astype(np.int64)
  mixed = base[None] ^ flips[..., 0] ^ flips[..., 1] ^ flips[..., 2]
  return mixed.astype(np.uint32)[None, :, :, None]


@pytest.fixture(scope="module")
def found(codes):
  return np.asarray(
    assignment.openers(codes, BRANCH, np.array(THRESHOLDS, np.int32))
  )


def by_hand(codes, threshold):
  """Openers of one head in plain Python."""
  opener = []
  for token in range(TOKENS):
    best = None
    for other in range(token):
      seen = BRANCH[other] in (-1, BRANCH[token])
      if not seen or opener[other] != other:
        continue
      distance = bin(int(codes[token]) ^ int(codes[other])).count("1")
      if distance < threshold and (best is None or distance < best[0]):
        best = (distance, other)
    opener.append(token if best is None else best[1])
  return opener


def test_openers_of_every_threshold(codes, found):
  for index, threshold in enumerate(THRESHOLDS):
    for head in range(2):
      expected = by_hand(codes[0, head, :, 0], threshold)
      assert found[index, 0, head].tolist() == expected
  assert len({tuple(one.ravel()) for one in found}) == len(THRESHOLDS)


def test_columns_number_the_clusters_that_a_token_sees(found):
  for opener in found[:, 0, 0]:
    cluster, number = assignment.columns(opener, BRANCH)
    for token in range(TOKENS):
      seen = [
        other
        for other in range(token + 1)
        if BRANCH[other] in (-1, BRANCH[token]) and opener[other] == other
      ]
      assert number[token] == len(seen)
      assert seen[cluster[token]] == opener[token]
