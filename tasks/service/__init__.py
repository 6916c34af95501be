"""The servers that Copytrace works with: their start, their stop, and what Prefect's server must know before a run."""
