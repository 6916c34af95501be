"""The servers that Copytrace uses: how they start and stop, and the set-up of Prefect's server."""
