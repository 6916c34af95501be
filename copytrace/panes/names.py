"""Names of panes that several rooms share."""

from __future__ import annotations

WHOLE = "whole"  # the pane that covers the whole picture
