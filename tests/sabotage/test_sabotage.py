"""Every sabotage applies and names tests that exist; `python -m tests.sabotage` runs them all."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from sabotage.claims import CLAIMS, Claim
from sabotage.runner import ROOT, DoesNotApply, check_caught, check_green, copy_tree, sabotaged
from support import require

NAMES = [claim.name for claim in CLAIMS]
# One each of wire, files and rows, whose tests take a second or two.
SHORT = ("patch-root", "overwrite-unsaved", "pairs-conflict")


@pytest.mark.parametrize("claim", CLAIMS, ids=NAMES)
def test_sabotage_applies(claim: Claim) -> None:
    """The old text is there exactly once, and what comes of it is another program."""
    text = (ROOT / claim.file).read_text()
    broken = sabotaged(claim, text)
    assert ast.dump(ast.parse(broken)) != ast.dump(ast.parse(text))


def test_text_that_is_gone_or_there_twice_is_refused() -> None:
    claim = Claim("name", "claim", "file.py", "old", "new", ())
    assert sabotaged(claim, "an old text") == "an new text"
    for text in ("a text", "old and old"):
        with pytest.raises(DoesNotApply, match=r"name: file\.py holds the old text"):
            sabotaged(claim, text)


def test_named_tests_exist() -> None:
    """Each id is a function of its file; pytest itself collects them in the long form."""
    known: dict[str, set[str]] = {}
    for claim in CLAIMS:
        assert claim.tests, claim.name
        for test in claim.tests:
            file, _, name = test.partition("::")
            if file not in known:
                body = ast.parse((ROOT / file).read_text()).body
                known[file] = {node.name for node in body if isinstance(node, ast.FunctionDef)}
            assert name in known[file], f"{claim.name}: {test}"


def test_names_are_unique() -> None:
    assert len(set(NAMES)) == len(NAMES)
    assert set(SHORT) <= set(NAMES)


@pytest.mark.slow
def test_short_campaign(tmp_path: Path) -> None:
    """Three sabotages turn their tests red, which are green without."""
    require("git")
    copy_tree(tmp_path)
    claims = [claim for claim in CLAIMS if claim.name in SHORT]
    sound = check_green(claims, tmp_path)
    assert not sound.green, sound.output
    for claim in claims:
        outcome = check_caught(claim, tmp_path)
        assert outcome.caught, f"{claim.name}: {outcome.green}\n{outcome.output}"
    for claim in claims:
        assert (tmp_path / claim.file).read_text() == (ROOT / claim.file).read_text()
