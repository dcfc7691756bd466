"""Pages say what is true: links lead somewhere, marked examples run.

An example runs here when its fence reads ```python run.
"""

import pathlib
import re

import pytest

from vrex_jax import typing as typing_lib

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
PAGES = [
  page
  for pattern in ("*.md", "docs/**/*.md", "experiments/*.md")
  for page in sorted(REPOSITORY.glob(pattern))
]
PAGE_NAMES = [str(page.relative_to(REPOSITORY)) for page in PAGES]

FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```\s*$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)[^)]*\)")


def anchors(text: str) -> set[str]:
  """Names that headings of a page can be linked by."""
  headings = re.findall(r"^#+\s+(.*)$", FENCE.sub("", text), re.MULTILINE)
  kept = [re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings]
  return {heading.strip().replace(" ", "-") for heading in kept}


def broken_links(page: pathlib.Path) -> list[str]:
  """Relative links of a page that lead to no file or heading."""
  broken = []
  for link in LINK.findall(FENCE.sub("", page.read_text())):
    if re.match(r"[a-z][a-z0-9+.-]*:", link):
      continue
    path, _, anchor = link.partition("#")
    target = page.parent / path if path else page
    found = target.exists() and (
      not anchor or anchor in anchors(target.read_text())
    )
    if not found:
      broken.append(link)
  return broken


def examples(page: pathlib.Path) -> list[str]:
  """Sources of the fences of a page that are marked to run."""
  return [
    source
    for info, source in FENCE.findall(page.read_text())
    if info.split() == ["python", "run"]
  ]


def run(source: str, name: str) -> None:
  """Runs an example as a program of its own."""
  exec(compile(source, name, "exec"), {"__name__": "__example__"})


@pytest.mark.parametrize("page", PAGES, ids=PAGE_NAMES)
def test_links_lead_somewhere(page):
  assert broken_links(page) == []


@pytest.mark.parametrize("page", PAGES, ids=PAGE_NAMES)
def test_marked_examples_run(page, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  for source in examples(page):
    run(source, str(page))


def test_letters_of_the_notation_page_are_those_of_the_code():
  row = r"([A-Z]) +(\S.*)"
  in_code = dict(re.findall(rf"^  {row}$", typing_lib.__doc__, re.MULTILINE))
  page = (REPOSITORY / "docs" / "notation.md").read_text()
  on_page = dict(re.findall(r"^\| ([A-Z]) \| (.*) \|$", page, re.MULTILINE))
  assert len(in_code) == 18
  assert on_page == in_code


def test_a_broken_link_and_a_failing_example_are_seen(tmp_path):
  (tmp_path / "there.md").write_text("# Two words, three!\n")
  page = tmp_path / "page.md"
  page.write_text(
    "[a](there.md) [b](gone.md) [c](there.md#two-words-three)\n"
    "[d](there.md#four) [e](https://example.org/x) [f](#title)\n"
    "```\n[not](a-link)\n```\n"
    "# Title\n"
    "```python run\nprint(1 / 0)\n```\n"
    "```python\nthis is no code\n```\n"
  )
  assert broken_links(page) == ["gone.md", "there.md#four"]
  (source,) = examples(page)
  with pytest.raises(ZeroDivisionError):
    run(source, "page.md")
