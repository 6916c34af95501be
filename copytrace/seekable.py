"""The base of streams that can be read from any position."""

from __future__ import annotations

import io


class SeekableReader(io.RawIOBase):
    """A stream of `size` bytes; a subclass fills buffers from `position` on, and moves it, in `readinto`."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size, self.position = size, 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position at which the next read starts."""
        return self.position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to `offset` from the start, from the present position, or from the end."""
        self.position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.position, io.SEEK_END: self.size}[whence]
        return self.position
