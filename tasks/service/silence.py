"""How long runs have been silent, counted only while somebody was there to hear them."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from uuid import UUID


@dataclass(frozen=True, slots=True)
class Heard:
    """What is known of a run: its `seconds` of silence, and whether a sign of life has arrived since the last look."""

    seconds: float = 0.0
    is_new: bool = False


class Silence:
    """The silence of runs, over looks that follow each other closely.

    Time between two looks of which one failed, or between which more than `longest_gap` seconds passed, is not counted
    as silence, and the count of every run starts anew: nobody knows what was said meanwhile, and whoever speaks needs
    some time to get through again.
    """

    def __init__(self, longest_gap: float) -> None:
        self._longest_gap = longest_gap
        self._last_look: float | None = None
        self._known: dict[UUID, frozenset[Hashable]] = {}
        self._heard: dict[UUID, Heard] = {}

    def start_anew(self) -> None:
        """Start the counts of all runs anew, since a look has failed."""
        self._last_look = None

    def look(self, now: float, signs: Mapping[UUID, Iterable[Hashable]]) -> dict[UUID, Heard]:
        """Return what is known of the runs in `signs`.

        `now` is the time in seconds, by a clock that only goes forward. `signs` has the latest signs of life of each
        run. Only whether one is new counts, and not when it was given, by whichever clock. Runs that are missing from
        `signs` are forgotten.
        """
        gap = 0.0 if self._last_look is None else now - self._last_look
        counts = self._last_look is not None and gap <= self._longest_gap
        found = {run: frozenset(given) for run, given in signs.items()}
        heard = {}
        for run, given in found.items():
            is_new = run in self._known and not given <= self._known[run]
            goes_on = counts and run in self._known and not is_new
            heard[run] = Heard(self._heard[run].seconds + gap if goes_on else 0.0, is_new)
        self._last_look, self._known, self._heard = now, found, heard
        return heard
