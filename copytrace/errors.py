"""Errors of Copytrace. Every message says what is wrong, where, and what to do."""


class CopytraceError(Exception):
    """Base of every error that Copytrace raises on purpose; its text is written for the user."""


class InputError(CopytraceError):
    """The inputs cannot be used: a missing path, an empty folder, a duplicate id, a bad table."""


class StorageError(CopytraceError):
    """A place in a store cannot be used: access is denied, its bucket is missing, or the store does not answer."""


class DamagedFileError(InputError):
    """A file of an index or of a run is missing, cut, or not what was written; `what` says which."""

    what = "damaged"


class InUseError(CopytraceError):
    """Another run writes into the output folder or the index; the text names it."""


class LeaseLostError(CopytraceError):
    """This run was taken for dead, and another one writes into its output folder; nothing more was changed there."""


class IndexChangedError(CopytraceError):
    """An index was changed time and again while it was searched."""


class ConfigError(CopytraceError):
    """A setting is unknown or out of range."""


class MediaError(CopytraceError):
    """A file cannot be read; the text is the one-line reason that `failures.csv` gives."""


class DecodingLimitError(MediaError):
    """A file crashed its decoder, or needed more time or memory than it may have."""


class NotMediumError(MediaError):
    """A file is no image, or no video, by its content; it is passed over, and listed in `passed_over.csv`."""


class TooManyFailuresError(CopytraceError):
    """More media failed than `max_failure_rate` allows; `failures.csv` has been written."""


class ModelMismatchError(CopytraceError):
    """Features made by different models or settings must not be compared."""
