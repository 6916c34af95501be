"""Everything that knows Prefect or MLflow."""

import os

# Both send usage data unless the environment says no before they are imported.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DO_NOT_TRACK", "true")
