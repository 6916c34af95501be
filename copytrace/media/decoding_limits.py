"""Limits of what decoding one file may cost, so that a damaged or hostile one costs no more than itself."""

from __future__ import annotations

from dataclasses import dataclass

SECONDS_PER_MIB = 10.0  # of processor time
SECONDS_PER_SECOND = 2.0  # of processor time, per second of video
STALL = 2.0  # times `seconds`, in which a decoder neither computes nor answers, and has hung
MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class DecodingLimits:
    """What decoding one file may cost: processor time in `seconds`, more for large and long files, and `memory` in MiB.

    Processor time counts, because it hardly depends on what else the machine does. A decoder that does nothing for
    twice as many seconds has hung. A decoder has `threads` threads; if that is 0, so many as `decoder_threads` returns.
    """

    seconds: float = 30.0
    memory: int = 4096
    threads: int = 0

    def processor_seconds(self, size: int, duration: float = 0.0) -> float:
        """Return the processor time for a file that stores `size` bytes, of which `duration` seconds of video are read.

        Holes of a file store nothing: without a byte on the disk, they may make it as long as the file system allows.
        """
        return self.seconds + SECONDS_PER_MIB * size / MIB + SECONDS_PER_SECOND * duration

    @property
    def stall(self) -> float:
        """Seconds in which a decoder that neither computes nor answers has hung."""
        return STALL * self.seconds

    def describe_memory(self) -> str:
        """Return the limit of memory as text."""
        return f"{self.memory / 1024:g} GiB" if self.memory >= 1024 else f"{self.memory} MiB"


DEFAULT_LIMITS = DecodingLimits()
