"""Names of panes that several rooms share."""

from __future__ import annotations

WHOLE = "whole"  # the pane that covers the whole picture
STRETCHED = "stretched"  # the same in another aspect; the name goes on with the ratio
