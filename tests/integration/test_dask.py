"""Shards on a real Dask cluster of two processes: the same bytes as by threads, errors as they are, killed workers."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from multiprocessing import forkserver, get_context
from pathlib import Path
from typing import Any

import cv2
import dask
import pytest
from distributed import LocalCluster
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId
from prefect.runtime import flow_run

from configs.images import ImageSettings
from configs.runner import Runner
from configs.videos import VideoSettings
from copytrace.errors import ConfigError, CopytraceError, InputError, LeaseLostError
from copytrace.images import match_images as match_images_by_library
from copytrace.lease import hold_lease
from copytrace.runtime import CORES
from copytrace.videos import match_videos as match_videos_by_library
from flows.index_images import index_images
from flows.index_videos import index_videos
from flows.match_images import match_images
from flows.match_videos import match_videos
from flows.parameters import flow_settings
from tasks import dask_cluster
from tasks.runners import run_on
from tests.few_points import FEW_POINTS
from tests.integration.dask_steps import die, note, refuse, stop_at_one, write

PRELOADED = ["anyio._backends._asyncio", "distributed", "onnx", "onnxruntime", "pandas", "prefect.task_engine"]
PRELOADED += ["prefect_dask", "tasks.image_steps", "tasks.video_steps", "tests.integration.dask_steps"]
TWO_PROCESSES = Runner(kind="dask", workers=2)
IMAGES: dict[str, Any] = {
    "media": {"shard_size": 2},
    "local": FEW_POINTS,
    "descriptor": {"input_size": 128},
    "overlay": {"detector": "edges"},
}
VIDEOS: dict[str, Any] = {
    "media": {"shard_size": 2},
    "descriptor": {"input_size": 64},
    "panes": {"detector": "none"},
    "report": {"max_matches": 5},
}


@pytest.fixture(scope="module")
def cluster(prefect_server: str) -> Iterator[Runner]:
    """A scheduler that is there already, with two worker processes; it gives a shard up when two have died of it.

    They are forked from a process that has imported what they need, as each would take ten seconds to import it.
    """
    get_context("forkserver").set_forkserver_preload(PRELOADED)
    forkserver.ensure_running()
    settings = {"distributed.scheduler.allowed-failures": 1, "distributed.worker.multiprocessing-method": "forkserver"}
    with (
        dask.config.set(settings),
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0") as started,
    ):
        yield Runner(kind="dask", address=started.scheduler_address)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory, photos: dict[str, Any]) -> dict[str, str]:
    """Three references and three queries, two shards of each."""
    root = tmp_path_factory.mktemp("photos")
    references = {name: photos[name] for name in ("astronaut", "chelsea", "coffee")}
    queries = {"flipped": photos["chelsea"][:, ::-1], "cropped": photos["coffee"][20:160, 30:250]}
    for side, pictures in {"references": references, "queries": queries | {"other": photos["rocket"]}}.items():
        (root / side).mkdir()
        for name, pixels in pictures.items():
            cv2.imwrite(str(root / side / f"{name}.png"), pixels[..., ::-1])
    return {"queries": str(root / "queries"), "references": str(root / "references")}


def bytes_of(out: Path) -> dict[str, bytes]:
    """All that a run leaves but the seconds that it took, and the plan of what this time was to be done."""
    return {
        str(path.relative_to(out)): path.read_bytes()
        for path in out.rglob("*")
        if path.suffix in {".csv", ".parquet", ".html"} and path.name != "plan.parquet"
    }


def test_an_index_made_by_dask_and_searched_by_dask_gives_the_bytes_of_the_library_over_folders(
    cluster: Runner, images: dict[str, str], tmp_path: Path
) -> None:
    by_library, by_dask = tmp_path / "library", tmp_path / "dask"
    match_images_by_library(**images, out=by_library, settings=flow_settings(ImageSettings, "cpu", IMAGES))
    index = index_images(images["references"], str(tmp_path / "index"), overrides=IMAGES, runner=cluster)
    match_images(images["queries"], index, str(by_dask), overrides=IMAGES, runner=cluster)
    assert not (by_dask / "work" / "references").exists()
    expected, found = bytes_of(by_library), bytes_of(by_dask)
    assert {"matches.csv", "matches.parquet", "work/evidence/00001.parquet"} <= found.keys()
    assert b'"flipped","chelsea"' in expected["matches.csv"]
    assert {name for name in expected.keys() - found.keys() if not name.startswith("work/references")} == set()
    assert {name: expected[name] for name in found} == found
    of_index = bytes_of(by_library / "work" / "references")
    assert {name: of_index[name] for name in bytes_of(Path(index))} == bytes_of(Path(index))


def test_dask_writes_the_same_video_bytes_as_the_library_and_goes_on_with_what_that_began(
    cluster: Runner, video_sides: Path, tmp_path: Path
) -> None:
    sides = {side: str(video_sides / side) for side in ("queries", "references")}
    by_library, by_dask = tmp_path / "library", tmp_path / "dask"
    match_videos_by_library(**sides, out=by_library, settings=flow_settings(VideoSettings, "cpu", VIDEOS))
    index = index_videos(sides["references"], str(tmp_path / "index"), overrides=VIDEOS, runner=cluster)
    match_videos(sides["queries"], index, str(by_dask), overrides=VIDEOS, runner=cluster)
    assert not (by_dask / "work" / "references").exists()
    expected, found = bytes_of(by_library), bytes_of(by_dask)
    assert expected["segments.csv"].count(b"\n") > 1
    assert {name: expected[name] for name in found} == found
    of_index = bytes_of(by_library / "work" / "references")
    assert {name: of_index[name] for name in bytes_of(Path(index))} == bytes_of(Path(index))

    (by_library / "work" / "segments" / "00001.parquet").unlink()
    match_videos(**sides, out=str(by_library), overrides=VIDEOS, runner=cluster)
    assert bytes_of(by_library) == expected


@flow
def note_and_refuse(folder: Path) -> None:
    (folder / "flow_run").write_text(str(flow_run.id))
    (folder / "second").mkdir()
    with run_on(TWO_PROCESSES, {note: note, refuse: refuse}) as steps:
        steps.run_shards(range(4), note, folder=folder)
        steps.run_shards(range(4), refuse, note, folder=folder / "second")


def test_processes_here_share_the_cores_speak_to_the_server_and_fail_as_the_stage_does(
    prefect_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (CORES, "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, "2")  # for this process; the two others get one each
    as_users_start_them = dask.config.set({"distributed.worker.multiprocessing-method": "spawn"})
    with as_users_start_them, pytest.raises(InputError, match="is empty; give another"):
        note_and_refuse(tmp_path)

    notes = [json.loads(file.read_text()) for file in sorted(tmp_path.glob("*.json"))]
    assert len(notes) == 4
    assert {(each["cores"], each["threads"]) for each in notes} == {(1, "1")}
    assert os.environ["OMP_NUM_THREADS"] == os.environ[CORES] == "2"
    assert len({each["pid"] for each in notes} - {os.getpid()}) == 2
    assert {f"noting shard {shard}" for shard in range(4)} <= lines_of((tmp_path / "flow_run").read_text())


def lines_of(identity: str) -> set[str]:
    """What the server was told of a flow run; it hears of the last lines a little later."""
    only = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[identity]))
    deadline, lines = time.monotonic() + 500, set[str]()
    with get_client(sync_client=True) as client:
        while sum(line.startswith("noting") for line in lines) < 4 and time.monotonic() < deadline:
            lines = {log.message for log in client.read_logs(log_filter=only)}
            time.sleep(0.2)
    return lines


@flow
def writing(runner: Runner, folder: Path) -> None:
    with hold_lease(folder), run_on(runner, {write: write}) as steps:
        steps.run_shards(range(2), write, folder=folder)
        (file,) = (folder / ".lease").iterdir()
        file.rename(file.with_name("token-2.json"))  # as if another run had taken over
        steps.run_shards(range(2, 4), write, folder=folder)


def test_processes_write_for_the_run_that_holds_the_folder_and_no_longer(cluster: Runner, tmp_path: Path) -> None:
    with pytest.raises(LeaseLostError, match=f"{tmp_path} was taken over by"):
        writing(cluster, tmp_path)
    assert {file.name: json.loads(file.read_text()) for file in tmp_path.glob("*.json")} == {
        "0.json": [1],
        "1.json": [1],
    }


@flow
def stopping(runner: Runner, folder: Path) -> None:
    with run_on(runner, {stop_at_one: stop_at_one}) as steps:
        steps.run_shards(range(12), stop_at_one, folder=folder)


@pytest.mark.parametrize("kind", ["threads", "dask"])
def test_the_first_error_is_told_and_what_was_not_begun_is_dropped(kind: str, cluster: Runner, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the second shard is bad"):
        stopping(cluster if kind == "dask" else Runner(workers=2), tmp_path)
    assert len(list(tmp_path.iterdir())) < 11, "eleven shards would have left a file each"


@flow
def dying(runner: Runner, folder: Path, times: int) -> None:
    with run_on(runner, {die: die}) as steps:
        steps.run_shards(range(3), die, folder=folder, times=times)


def test_a_shard_whose_worker_was_killed_is_done_by_another(cluster: Runner, tmp_path: Path) -> None:
    dying(cluster, tmp_path, 1)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["died0", "done0", "done1", "done2"]


def test_a_shard_that_workers_die_of_over_and_over_is_told_in_one_line(cluster: Runner, tmp_path: Path) -> None:
    with pytest.raises(CopytraceError, match="2 Dask workers died in a row of the same shard; if memory ran out"):
        dying(cluster, tmp_path, 99)


def test_a_scheduler_that_does_not_answer_is_told_in_one_line(
    prefect_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dask_cluster, "SECONDS_TO_CONNECT", 1)
    with pytest.raises(ConfigError, match=r"no Dask scheduler answers at tcp://127\.0\.0\.1:9; start"):
        dying(Runner(kind="dask", address="tcp://127.0.0.1:9"), tmp_path, 0)
    assert not list(tmp_path.iterdir())
