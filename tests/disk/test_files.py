"""The seam to the file system: what its own functions promise beyond one system call."""

from __future__ import annotations

from pathlib import Path

import pytest

from structchunk.disk import files


@pytest.mark.parametrize("step", ["create", "write", "flush", "rename"])
def test_a_file_is_replaced_whole_or_not_at_all(step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever step fails, the old bytes are there, and the next try puts the new ones in their place."""
    path = tmp_path / "file"
    files.replace(str(path), b"old", sync=True)

    def fail(*args: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(files, step, fail)
        with pytest.raises(OSError, match="No space"):
            files.replace(str(path), b"longer than before", sync=True)
    assert path.read_bytes() == b"old"
    files.replace(str(path), b"new", sync=False)
    assert path.read_bytes() == b"new"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
