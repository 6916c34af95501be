"""Places in stores, and what goes wrong there in one line."""

from __future__ import annotations

import pickle
from collections.abc import Iterator

import fsspec
import pytest

from copytrace.errors import InputError, StorageError
from copytrace.object_store import PART, StoredPath, filesystem_of, redact, redact_all, reraise_as


@pytest.fixture
def root() -> Iterator[StoredPath]:
    """A place in a store that is empty, and that lives as long as the process."""
    place = StoredPath("memory://places")
    yield place
    if place.exists():
        place.remove_all()


def test_what_is_written_is_read_and_found(root: StoredPath) -> None:
    (root / "a" / "one.json").write_bytes(b"1")
    (root / "a" / "two.json").write_bytes(b"2")
    (root / "b" / "two.txt").write_bytes(b"3")
    assert (root / "a" / "one.json").read_text() == "1"
    assert sorted(path.name for path in (root / "a").glob("*.json")) == ["one.json", "two.json"]
    assert sorted(str(path) for path in root.glob("*/two.*")) == [str(root / "a/two.json"), str(root / "b/two.txt")]
    assert sorted(path.name for path in root.iterdir()) == ["a", "b"]
    assert (root / "a").is_dir()
    assert (root / "a" / "one.json").is_file()


def test_what_is_not_there_is_told_as_of_files(root: StoredPath) -> None:
    assert not (root / "absent").exists()
    assert list((root / "absent").iterdir()) == []
    (root / "absent").unlink(missing_ok=True)
    with pytest.raises(FileNotFoundError):
        (root / "absent").unlink()
    with pytest.raises(FileNotFoundError):
        (root / "absent").read_text()


def test_a_long_object_is_read_in_parts_from_anywhere(root: StoredPath) -> None:
    lines = [f"{number:07}\n" for number in range(PART // 8 + 1000)]
    (root / "long.txt").write_bytes("".join(lines).encode())
    with (root / "long.txt").open(encoding="ascii") as file:
        assert list(file) == lines
    with (root / "long.txt").open("rb") as file:
        file.seek(-8, 2)
        assert file.read() == lines[-1].encode()
        file.seek(PART - 8)
        assert file.read(16) == (lines[PART // 8 - 1] + lines[PART // 8]).encode()
        assert file.seek(0, 2) == 8 * len(lines)
        assert file.read(1) == b""


def test_text_is_read_with_the_line_ends_that_are_asked_for(root: StoredPath) -> None:
    (root / "text").write_bytes(b"a\r\nb")
    assert (root / "text").read_text() == "a\nb"
    with (root / "text").open(newline="") as file:
        assert file.read() == "a\r\nb"


def test_a_place_is_the_same_in_another_process(root: StoredPath) -> None:
    sent = pickle.loads(pickle.dumps(root / "x"))
    assert sent == root / "x"
    assert hash(sent) == hash(root / "x")
    (root / "x").write_bytes(b"seen")
    assert sent.read_bytes() == b"seen"


def test_settings_of_the_user_go_before_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, _ = filesystem_of("s3://bucket/key")
    assert ours.config_kwargs["retries"]["total_max_attempts"] == 5
    monkeypatch.setitem(fsspec.config.conf, "s3", {"config_kwargs": {"retries": {"total_max_attempts": 9}}})
    theirs, path = filesystem_of("s3://bucket/key")
    assert theirs.config_kwargs == {"retries": {"total_max_attempts": 9}}
    assert path == "bucket/key"


def test_a_scheme_that_nobody_knows_is_told() -> None:
    with pytest.raises(InputError, match="fsspec knows no nowhere://; check the address"):
        filesystem_of("nowhere://bucket/key")


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (PermissionError("key AKIA refused"), "access to s3://b/k is denied; check the permissions or credentials"),
        (FileNotFoundError("no such key"), "s3://b/k does not exist; check the path"),
        (TimeoutError("after 5 s"), r"s3://b/k cannot be reached \(TimeoutError\); check the address, the credentials"),
    ],
)
def test_an_error_of_a_store_is_one_line_without_its_own_text(error: Exception, told: str) -> None:
    with pytest.raises(StorageError, match=told) as raised, reraise_as("s3://b/k", StorageError):
        raise error
    assert str(error) not in str(raised.value)


def test_keys_in_addresses_are_not_shown() -> None:
    assert redact("s3://key:secret@bucket/a") == "s3://bucket/a"
    assert redact("global.noise=https://store/x?signature=1") == "global.noise=https://store/x"
    assert redact("simplecache::https://store/x?signature=1") == "simplecache::https://store/x"
    settings = {
        "noise": "s3://key:secret@bucket/a",
        "also": ["https://store/x?signature=1"],
        "weight": 1.0,
        "pca": None,
    }
    assert redact_all(settings) == {"noise": "s3://bucket/a", "also": ["https://store/x"], "weight": 1.0, "pca": None}
