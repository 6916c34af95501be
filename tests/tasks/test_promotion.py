"""Which of two validated versions is the champion."""

from __future__ import annotations

import math

import pytest

from tasks.promotion import ValidatedVersion, decide


def test_the_first_version_becomes_the_champion() -> None:
    assert decide(ValidatedVersion(1, 0.1, "set"), None, min_improvement=0.5) == (True, "there was no champion")


@pytest.mark.parametrize(
    ("figure", "min_improvement", "promoted"),
    [(0.31, 0.0, True), (0.3, 0.0, False), (0.29, 0.0, False), (0.4, 0.1, True), (0.399, 0.1, False)],
)
def test_the_champion_is_beaten_by_the_margin_that_was_asked_for(
    figure: float, min_improvement: float, promoted: bool
) -> None:
    champion = ValidatedVersion(1, 0.3, "set")
    assert decide(ValidatedVersion(2, figure, "set"), champion, min_improvement=min_improvement)[0] is promoted


def test_a_margin_that_binary_fractions_miss_by_a_hair_is_met() -> None:
    assert 0.3 - 0.2 < 0.1
    assert decide(ValidatedVersion(2, 0.3, "set"), ValidatedVersion(1, 0.2, "set"), min_improvement=0.1)[0]


def test_a_figure_that_is_no_number_beats_nobody() -> None:
    assert not decide(ValidatedVersion(2, math.nan, "set"), ValidatedVersion(1, 0.2, "set"), min_improvement=0.0)[0]


@pytest.mark.parametrize(("candidate", "champion"), [("new", "old"), ("", "")])
def test_figures_on_another_or_an_unknown_set_do_not_compare(candidate: str, champion: str) -> None:
    promoted, reason = decide(
        ValidatedVersion(2, 0.9, candidate), ValidatedVersion(1, 0.2, champion), min_improvement=0.0
    )
    assert not promoted
    assert "another set" in reason


def test_a_champion_without_a_figure_is_not_beaten() -> None:
    refused = decide(ValidatedVersion(2, 0.9, "set"), ValidatedVersion(1, None, "set"), min_improvement=0.0)
    assert refused == (False, "version 1 has no figure to compare")
