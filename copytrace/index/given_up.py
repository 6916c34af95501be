"""Files whose decoding was given up, because they crash a decoder or take too much time or memory.

    INDEX/given_up/*.json     a file each: its id and the reason, named by what would change if it were tried again

They are remembered as soon as they are met, so that neither the next step, nor a run after one that was killed, pays
for them again. A file that changed is tried again, and so are all files under other limits.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from configs.settings import MediaSettings
from copytrace.checked_files import read_record, write_record
from copytrace.errors import DamagedFileError, DecodingLimitError
from copytrace.media.decoding_limits import DecodingLimits
from copytrace.media.files import MediaItem
from copytrace.storage import digest_of

R = TypeVar("R")


class GivenUpFiles:
    """The files of an index whose decoding was given up; those that other processes add later are not seen."""

    def __init__(self, root: Path, settings: MediaSettings) -> None:
        self._folder = root / "given_up"
        self._limits = [settings.max_seconds, settings.max_memory, settings.max_pixels]
        self._names = {path.name for path in self._folder.glob("*.json")}

    def remember(self, item: MediaItem, error: DecodingLimitError) -> None:
        """Write down that a file was given up."""
        name = self._name(item)
        if name not in self._names:
            write_record(self._folder / name, {"id": item.id, "error": str(error)})
            self._names.add(name)

    def check(self, item: MediaItem) -> None:
        """Raise `DecodingLimitError`, with the reason that was remembered, if the file was given up."""
        if self._names and (name := self._name(item)) in self._names and (reason := self._reason(name)):
            raise DecodingLimitError(reason)

    def guard(self, load: Callable[[MediaItem], R]) -> Callable[[MediaItem], R]:
        """Return a function that decodes a file by `load`, unless the file was given up, and remembers if it is now."""

        def load_unless_given_up(item: MediaItem) -> R:
            self.check(item)
            try:
                return load(item)
            except DecodingLimitError as error:
                self.remember(item, error)
                raise

        return load_unless_given_up

    def _reason(self, name: str) -> str:
        """Return why a file was given up; "" if what was written down is damaged, so that it is tried again."""
        try:
            return str(read_record(self._folder / name).get("error", ""))
        except DamagedFileError:
            return ""

    def _name(self, item: MediaItem) -> str:
        return f"{digest_of(item.path, item.stamp, self._limits)}.json"


def limits_of(settings: MediaSettings) -> DecodingLimits:
    """Return the limits of decoding that the settings name."""
    return DecodingLimits(settings.max_seconds, settings.max_memory, settings.threads)
