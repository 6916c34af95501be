"""Files that are altered in any way are read, or refused in an error that names them, by every reader of Copytrace.

COPYTRACE_FUZZ_SECONDS is the processor time that each reader gets, 20 seconds without; COPYTRACE_SEED chooses files.
"""

from __future__ import annotations

import json
import os

import pytest

from tests.child_processes import run_python

SECONDS = os.environ.get("COPYTRACE_FUZZ_SECONDS", "20")
SEED = os.environ.get("COPYTRACE_SEED", "1")


@pytest.mark.timeout(36000)
def test_an_altered_file_is_read_or_refused_by_its_name() -> None:
    done = run_python("-m", "tests.faults.fuzzed_readers", SECONDS, SEED)
    told = [json.loads(line) for line in done.stdout.splitlines()]
    for each in told:
        print(f"{each['reader']}: {each['files']} files, {each['outcomes']}; at most {each['largest']} MiB for one")
    assert len(told) > 40
    assert {each["reader"]: each["faults"] for each in told if each["faults"]} == {}
