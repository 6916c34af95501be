"""The flows, a file each."""

import tasks as tasks  # first, as it keeps Prefect and MLflow from sending usage data
