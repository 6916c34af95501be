from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor

from models.aligner_files import AlignerConfig, save_aligner
from models.aligner_network import build_aligner
from models.export import LOGITS, VALUES, export_pair_classifier
from models.pair_files import CANVAS, PairConfig, load_pair_classifier, read_pair_config, save_pair_classifier
from models.pair_network import PairClassifier, build_pair_classifier
from models.pretrained import ModelFileError

SMALL = "test_efficientnet"


@pytest.fixture(scope="module")
def classifier() -> PairClassifier:
    torch.manual_seed(0)
    return build_pair_classifier(SMALL).eval()


def canvases(count: int) -> Tensor:
    return torch.rand(count, 1, CANVAS, CANVAS, generator=torch.Generator().manual_seed(count)) - 0.3


def test_every_canvas_gets_one_logit(classifier: PairClassifier) -> None:
    with torch.inference_mode():
        logits = classifier(canvases(3))
    assert logits.shape == (3,)
    assert logits.dtype == torch.float32
    assert len(set(logits.tolist())) == 3


def test_the_default_is_the_published_classifier_in_a_file_of_few_megabytes(tmp_path: Path) -> None:
    path = save_pair_classifier(build_pair_classifier(), tmp_path / "pair_classifier.safetensors")
    assert read_pair_config(path) == PairConfig("mobilenetv3_small_100")
    assert path.stat().st_size < 3_500_000


def test_an_architecture_that_timm_lacks_is_refused() -> None:
    with pytest.raises(ValueError, match="timm builds no no_such_model of one channel"):
        build_pair_classifier("no_such_model")


def test_a_saved_classifier_gives_the_same_answers(classifier: PairClassifier, tmp_path: Path) -> None:
    again = load_pair_classifier(save_pair_classifier(classifier, tmp_path / "pairs.safetensors"))
    with torch.inference_mode():
        torch.testing.assert_close(again(canvases(2)), classifier(canvases(2)), atol=1e-2, rtol=1e-2)


def test_a_file_of_an_aligner_is_refused(tmp_path: Path) -> None:
    path = save_aligner(build_aligner(AlignerConfig()), tmp_path / "aligner.safetensors")
    with pytest.raises(ModelFileError, match="holds a model of kind 'aligner', not 'pair-classifier'"):
        load_pair_classifier(path)


def test_the_exported_graph_agrees_with_torch(classifier: PairClassifier, tmp_path: Path) -> None:
    path = export_pair_classifier(classifier, tmp_path / "pairs.onnx")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for count in (1, 5):
        (found,) = session.run([LOGITS], {VALUES: canvases(count).numpy()})
        with torch.inference_mode():
            np.testing.assert_allclose(found, classifier(canvases(count)).numpy(), atol=1e-4)
