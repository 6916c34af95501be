"""The readers of files of Copytrace: good files of each, and how they are read."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from configs.images import ImageSettings
from configs.load import load_settings
from copytrace.alignment import networks
from copytrace.checked_files import read_record, write_record
from copytrace.exchange.npz_exchange import import_npz
from copytrace.features.descriptors import load_descriptor
from copytrace.features.ensemble import Projection, read_projection, write_projection
from copytrace.features.pca_exchange import read_sklearn_pca
from copytrace.index.codebook import codebook_label
from copytrace.lease import find_holder, hold_lease
from copytrace.matching.score import load_calibration
from copytrace.media.failures import Failure, read_failures, write_failures
from copytrace.media.files import list_media
from copytrace.metrics import descriptor_evaluation
from copytrace.metrics.evaluation import evaluate_images
from copytrace.metrics.video_evaluation import evaluate_videos
from copytrace.overlays.box_files import BoxFile
from copytrace.overlays.detectors import load_overlay_detector
from copytrace.runtime import WEIGHTS
from copytrace.submissions.check import check_submission
from copytrace.submissions.media_lists import read_media_list
from copytrace.training.checkpoint import read_checkpoint, write_checkpoint
from copytrace.training.log import read_history
from copytrace.training.training_result import read_result
from models.descriptor_spec import read_spec
from tests.faults.folder_readers import Reader, folder_readers

MATCHES = "query_id,reference_id,score\nQ00000,R000000,0.5\nQ00001,R000001,0.25\nQ00002,R000003,1e-3\n"
TRUTH = "query_id,reference_id,kind\nQ00000,R000000,crop\nQ00001,,\nQ00002,R000002,flip\n"
SEGMENTS = (
    "query_id,ref_id,query_start,query_end,ref_start,ref_end,score\n"
    "Q200001,R200001,0,10,5.0,15.5,0.5\nQ200002,R200002,1,2,3,4,0.25\n"
)
PAIRS = "query_id,ref_id,score\nQ200001,R200001,0.5\nQ200002,R200002,0.25\n"
METADATA = "video_id,duration_sec\nQ200001,12.5\nQ200002,30\n"
BOXES = "id,x0,y0,x1,y1,confidence,branch\na,0.1,0.1,0.5,0.6,0.9,global\nb,0,0,1,1,0.5,\n"
SPEC = (
    "weights: a.pth\narchitecture: test_efficientnet\ninput_size: 32\ninterpolation: bicubic\n"
    "mean: [0.5, 0.5, 0.5]\nstd: [0.5, 0.5, 0.5]\n"
)
CONFIG = "media:\n  shard_size: 8\n  include: ['*.jpg', b]\nlocal: &l\n  stretches: [2.0, 0.5]\n  rule: hough\n"


def _files(**contents: bytes | str) -> Callable[[Path], Sequence[Path]]:
    def make(root: Path) -> Sequence[Path]:
        root.mkdir()
        paths = []
        for name, content in contents.items():
            path = root / name.replace("_dot_", ".")
            path.write_bytes(content.encode() if isinstance(content, str) else content)
            paths.append(path)
        return paths

    return make


def _file(name: str, content: bytes | str) -> Callable[[Path], Sequence[Path]]:
    return _files(**{name: content})


def _parquet_of(text: str) -> bytes:
    header, *rows = text.splitlines()
    columns = list(zip(*(row.split(",") for row in rows), strict=True))
    table = {
        name: pa.array([float(value) for value in column]) if name in {"score", "duration_sec"} else pa.array(column)
        for name, column in zip(header.split(","), columns, strict=True)
    }
    written = io.BytesIO()
    pq.write_table(pa.table(table), written)
    return written.getvalue()


def _npz(**arrays: Any) -> bytes:
    written = io.BytesIO()
    np.savez(written, **arrays)
    return written.getvalue()


def _descriptors(letter: str) -> bytes:
    return _npz(
        video_ids=np.array([f"{letter}200001"] * 3 + [f"{letter}200002"] * 2),
        timestamps=np.array([[0, 1], [1, 2], [2, 3], [0, 1], [1, 2]], np.float64),
        features=np.random.default_rng(1).normal(size=(5, 16)).astype(np.float32),
    )


def _hdf5() -> bytes:
    written, random = io.BytesIO(), np.random.default_rng(2)
    with h5py.File(written, "w") as file:
        for side, letter, digits in (("query", "Q", 5), ("reference", "R", 6)):
            file[side] = random.normal(size=(4, 8)).astype(np.float32)
            file[f"{side}_ids"] = np.array([f"{letter}{number:0{digits}}".encode() for number in range(4)])
    return written.getvalue()


def _projection(root: Path) -> Sequence[Path]:
    root.mkdir()
    return [
        write_projection(
            root / "pca.safetensors", Projection(np.zeros(8, np.float32), np.eye(4, 8, dtype=np.float32), "")
        )
    ]


def _checkpoint(root: Path) -> Sequence[Path]:
    root.mkdir()
    return [write_checkpoint(root / "checkpoint.pt", "f", {"network": {"a": torch.zeros(3)}, "epoch": 2})]


def _record(root: Path) -> Sequence[Path]:
    root.mkdir()
    return [write_record(root / "step.json", {"fingerprint": "f", "bytes": [3], "checksums": {"a": "3:00000000"}})]


def _weights(name: str) -> Callable[[Path], Sequence[Path]]:
    def make(root: Path) -> Sequence[Path]:
        root.mkdir()
        return [Path(shutil.copy(WEIGHTS / name, root / name))]

    return make


def _failures(root: Path) -> Sequence[Path]:
    root.mkdir()
    return [write_failures(root / "failures.csv", [Failure("a", "b", "decode", "c, d"), Failure("=e", "f", "g", "h")])]


def _lease(root: Path) -> Sequence[Path]:
    with hold_lease(root):
        (root / "something").write_text("x")
    return list((root / ".lease").glob("*.json"))


def _hold(root: Path) -> None:
    find_holder(root)
    with hold_lease(root):
        pass


def _submission(challenge: Any, name: str, **options: Any) -> Callable[[Path], object]:
    return lambda root: check_submission(challenge, [root / name], **options)


def _import(root: Path) -> object:
    try:
        return import_npz(root / "a.npz", root / "index", "references", model="m")
    finally:
        shutil.rmtree(root / "index", ignore_errors=True)


HISTORY = '{"epoch": 1, "loss": 0.5}\n{"epoch": 2, "loss": 0.25}\n'
RESULT = {
    **{"title": "t", "metrics": {"a": 0.5}, "score": "a", "best_epoch": 1, "images": 2, "validation_images": 2},
    **{"dataset_digest": "d", "validation_digest": "v", "seconds": 1.0, "device": "cpu", "settings": {}},
}


def _text_readers() -> Iterator[Reader]:
    listing = "id,path\na,b.jpg\nc,d.png\n"
    for suffix, text in (("csv", listing), ("parquet", _parquet_of(listing))):
        yield Reader(
            f"manifest-{suffix}",
            _file(f"a.{suffix}", text),
            lambda root, s=suffix: list_media(str(root / f"a.{s}"), "image"),
        )
    yield Reader("boxes", _file("a.csv", BOXES), lambda root: BoxFile(root / "a.csv"))
    for suffix, write in (("csv", str), ("parquet", _parquet_of)):
        yield Reader(
            f"evaluate-images-{suffix}",
            _files(**{f"truth.{suffix}": write(TRUTH), f"found.{suffix}": write(MATCHES)}),
            lambda root, s=suffix: evaluate_images(root / f"truth.{s}", root / f"found.{s}").render(),
        )
        yield Reader(
            f"evaluate-videos-{suffix}",
            _files(**{f"truth.{suffix}": write(SEGMENTS), f"found.{suffix}": write(SEGMENTS)}),
            lambda root, s=suffix: evaluate_videos(root / f"truth.{s}", root / f"found.{s}", None).render(),
        )
        yield Reader(
            f"evaluate-candidates-{suffix}",
            _files(**{f"truth.{suffix}": write(SEGMENTS), f"found.{suffix}": write(PAIRS)}),
            lambda root, s=suffix: descriptor_evaluation.evaluate_candidates(
                root / f"truth.{s}", root / f"found.{s}"
            ).render(),
        )
        yield Reader(
            f"media-list-{suffix}",
            _file(f"a.{suffix}", write(METADATA)),
            lambda root, s=suffix: read_media_list(root / f"a.{s}"),
        )
    yield Reader("media-list-txt", _file("a.txt", "Q00000\nQ00001\n"), lambda root: read_media_list(root / "a.txt"))
    yield Reader("submission-disc21", _file("a.csv", MATCHES.replace("1e-3", "0.1")), _submission("disc21", "a.csv"))
    yield Reader("submission-vsc22", _file("a.csv", SEGMENTS), _submission("vsc22", "a.csv"))
    yield Reader("submission-vsc22-truth", _file("a.csv", SEGMENTS), _submission("vsc22", "a.csv", kind="ground-truth"))
    yield Reader("submission-vsc22-candidates", _file("a.csv", PAIRS), _submission("vsc22", "a.csv"))
    yield Reader("settings", _file("a.yaml", CONFIG), lambda root: load_settings(ImageSettings, config=root / "a.yaml"))
    yield Reader("spec", _file("a.yaml", SPEC), lambda root: read_spec(root / "a.yaml"))
    yield Reader("failures", _failures, lambda root: read_failures(root / "failures.csv"))
    yield Reader("record", _record, lambda root: read_record(root / "step.json"))
    yield Reader("lease", _lease, _hold)
    shipped = (WEIGHTS / "image_calibration.json").read_bytes()
    yield Reader("calibration", _file("a.json", shipped), lambda root: load_calibration(str(root / "a.json")))
    yield Reader("training-result", _file("result.json", json.dumps(RESULT)), read_result)
    yield Reader("history", _file("history.jsonl", HISTORY), lambda root: read_history(root / "history.jsonl"))


def _binary_readers() -> Iterator[Reader]:
    yield Reader("submission-npz", _file("a.npz", _descriptors("Q")), _submission("vsc22", "a.npz"))
    yield Reader("import-npz", _file("a.npz", _descriptors("R")), _import)
    yield Reader("submission-hdf5", _file("a.h5", _hdf5()), _submission("disc21", "a.h5"))
    yield Reader(
        "evaluate-hdf5",
        _files(**{"truth.csv": TRUTH, "a.h5": _hdf5()}),
        lambda root: descriptor_evaluation.evaluate_image_descriptors(root / "truth.csv", root / "a.h5"),
    )
    yield Reader(
        "evaluate-npz",
        _files(**{"truth.csv": SEGMENTS, "q.npz": _descriptors("Q"), "r.npz": _descriptors("R")}),
        lambda root: descriptor_evaluation.evaluate_video_descriptors(
            root / "truth.csv", root / "q.npz", root / "r.npz"
        ),
    )
    pca = _npz(mean_=np.zeros(8), components_=np.eye(4, 8), explained_variance_=np.ones(4), whiten=np.array(True))
    yield Reader("sklearn-pca", _file("a.npz", pca), lambda root: read_sklearn_pca(root / "a.npz"))
    yield Reader("pca", _projection, lambda root: read_projection(root / "pca.safetensors"))
    yield Reader(
        "checkpoint", _checkpoint, lambda root: read_checkpoint(root / "checkpoint.pt", "f", torch.device("cpu"))
    )
    yield Reader(
        "codebook",
        _weights("point_codebook.safetensors"),
        lambda root: codebook_label(str(root / "point_codebook.safetensors")),
    )
    for name, file, load in _NETWORKS:
        for backend in ("onnx", "torch"):
            yield Reader(
                f"{name}-{backend}",
                _weights(file),
                lambda root, file=file, load=load, backend=backend: load(str(root / file), backend=backend),
                room=(EXPORT if backend == "onnx" else 384) << 20,
            )


EXPORT = 640  # MiB; the first export of a network takes up to 535, whatever the file
_NETWORKS: Sequence[tuple[str, str, Callable[..., object]]] = (
    ("descriptor", "descriptor.safetensors", load_descriptor),
    ("overlay", "overlay.safetensors", load_overlay_detector),
    ("aligner", "aligner.safetensors", networks.NetworkAligner),
    ("pairs", "pair_classifier.safetensors", networks.PairFilter),
)


def readers() -> Iterator[Reader]:
    """Yield all readers."""
    yield from _text_readers()
    yield from _binary_readers()
    yield from folder_readers()
