"""The artifact folder: what is written is what is read, and nothing else is accepted."""

from __future__ import annotations

import errno
import fcntl
import json
import shutil
import subprocess
import sys
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pytest

from deployments.artifact import version_lock
from deployments.artifact.reader import MANIFEST, Artifact
from deployments.artifact.writer import ArtifactWriter
from deployments.errors import ArtifactError
from tests.support.paths import ROOT


def write(folder: Path, value: float = 1.0, **metrics: float) -> Artifact:
    with ArtifactWriter(folder, settings={"sources": ["popular"]}, metrics=metrics) as writer:
        vectors_ND = np.full((3, 2), value, np.float32)
        writer.tensors("items.safetensors", {"item_vectors_ND": vectors_ND, "bias_N": np.arange(3)})
        writer.table("catalogue.arrow", pa.table({"item_id": ["a", "b", "c"]}))
        writer.table("reference.parquet", pa.table({"score": [0.5]}))
        writer.json("notes.json", {"seed": 7})
        writer.file("index.bin").write_bytes(b"index")
    return Artifact.open(str(folder))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "model")
    return tmp_path / "model"


def edit_manifest(folder: Path, **changes: object) -> None:
    path = folder / MANIFEST
    path.write_text(json.dumps(json.loads(path.read_bytes()) | changes))


def test_an_artifact_is_read_back_as_it_was_written(folder: Path) -> None:
    artifact = Artifact.open(str(folder))
    tensors = artifact.tensors("items.safetensors")
    np.testing.assert_array_equal(tensors["item_vectors_ND"], np.ones((3, 2), np.float32), strict=True)
    np.testing.assert_array_equal(tensors["bias_N"], np.arange(3), strict=True)
    assert artifact.table("catalogue.arrow")["item_id"].to_pylist() == ["a", "b", "c"]
    assert artifact.table("reference.parquet")["score"].to_pylist() == [0.5]
    assert artifact.json("notes.json") == {"seed": 7}
    assert artifact.path("index.bin").read_bytes() == b"index"
    assert artifact.manifest.settings == {"sources": ["popular"]}


def test_every_common_type_and_shape_of_tensor_survives(tmp_path: Path) -> None:
    types = (np.float64, np.float32, np.float16, np.int64, np.int32, np.int16, np.int8, np.uint8, np.bool_)
    given = {np.dtype(t).name: np.arange(6).reshape(2, 3).T.astype(t) for t in types}
    given |= {"scalar": np.array(3.0), "empty": np.zeros((0, 4), np.float32)}
    with ArtifactWriter(tmp_path / "model") as writer:
        writer.tensors("all.safetensors", given)
    read = Artifact.open(str(tmp_path / "model")).tensors("all.safetensors")
    assert read.keys() == given.keys()
    for name, array in given.items():
        np.testing.assert_array_equal(read[name], array, strict=True)


def test_tensors_are_read_only(folder: Path) -> None:
    with pytest.raises(ValueError, match="read-only"):
        Artifact.open(str(folder)).tensors("items.safetensors")["bias_N"][0] = 1


def test_the_version_follows_the_content_and_not_the_time_or_the_metrics(tmp_path: Path) -> None:
    one = write(tmp_path / "one", ndcg=0.1)
    same = write(tmp_path / "same", ndcg=0.2)
    other = write(tmp_path / "other", value=2.0)
    assert one.model_version == same.model_version != other.model_version
    assert same.manifest.metrics == {"ndcg": 0.2}


def test_derived_files_are_checked_and_do_not_change_the_version(folder: Path, tmp_path: Path) -> None:
    plain = Artifact.open(str(folder))
    with ArtifactWriter(folder) as writer:
        writer.copy_from(plain)
        writer.derived("code.pt2").write_bytes(b"code")
        writer.gates["compiled-fp32"] = {"overlap": 1.0}
    packaged = Artifact.open(str(folder))
    assert packaged.model_version == plain.model_version
    assert packaged.manifest.files == plain.manifest.files
    assert packaged.manifest.metrics == plain.manifest.metrics
    assert packaged.manifest.gates == {"compiled-fp32": {"overlap": 1.0}}
    assert packaged.path("code.pt2").read_bytes() == b"code"
    with ArtifactWriter(folder) as writer:
        writer.copy_from(packaged)
    assert Artifact.open(str(folder)).manifest.derived == packaged.manifest.derived
    (folder / "code.pt2").write_bytes(b"evil")
    with pytest.raises(ArtifactError, match=r"code\.pt2 was altered"):
        Artifact.open(str(folder))


def test_a_preview_is_the_artifact_before_its_metrics(tmp_path: Path) -> None:
    with ArtifactWriter(tmp_path / "model") as writer:
        writer.json("notes.json", 1)
        preview = writer.preview()
        assert preview.json("notes.json") == 1
        writer.metrics["ndcg"] = 0.3
    assert Artifact.open(str(tmp_path / "model")).model_version == preview.model_version


def test_a_missing_folder_is_named_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"nowhere: the folder does not exist; train one with `python -m graphs tr"):
        Artifact.open(str(tmp_path / "nowhere"))
    with pytest.raises(ArtifactError, match=r"the folder has no manifest\.json"):
        Artifact.open(str(tmp_path))


def test_a_missing_file_is_named(folder: Path) -> None:
    (folder / "index.bin").unlink()
    with pytest.raises(ArtifactError, match=r"the file index\.bin is missing"):
        Artifact.open(str(folder))


def test_an_extra_file_is_named(folder: Path) -> None:
    (folder / "stray.txt").touch()
    with pytest.raises(ArtifactError, match=r"stray\.txt does not belong to it"):
        Artifact.open(str(folder))


def test_an_altered_file_is_named(folder: Path) -> None:
    (folder / "index.bin").write_bytes(b"Index")
    with pytest.raises(ArtifactError, match=r"the file index\.bin was altered"):
        Artifact.open(str(folder))


def test_a_file_it_does_not_have_is_named(folder: Path) -> None:
    with pytest.raises(ArtifactError, match=r"it has no file model\.bin"):
        Artifact.open(str(folder)).path("model.bin")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema_version": 99}, "schema_version is 99, not 2; another version of rayfunnel wrote it: train one"),
        ({"settings": {"sources": []}}, "manifest.json was altered"),
        ({"surprise": 1}, "manifest.json: surprise"),
        ({"files": {"../secret": "0" * 64}}, "manifest.json: files"),
    ],
)
def test_a_manifest_that_can_not_be_trusted_is_refused(folder: Path, changes: dict[str, object], message: str) -> None:
    edit_manifest(folder, **changes)
    with pytest.raises(ArtifactError, match=message):
        Artifact.open(str(folder))


@pytest.mark.parametrize("text", ["{", "[]", "\xff"])
def test_a_manifest_that_is_no_json_object_is_refused(folder: Path, text: str) -> None:
    (folder / MANIFEST).write_bytes(text.encode("latin-1"))
    with pytest.raises(ArtifactError):
        Artifact.open(str(folder))


def test_nothing_is_an_artifact_before_the_block_ends(tmp_path: Path) -> None:
    with ArtifactWriter(tmp_path / "model") as writer:
        writer.json("notes.json", 1)
        with pytest.raises(ArtifactError, match="does not exist"):
            Artifact.open(str(tmp_path / "model"))


def test_a_failed_write_leaves_the_old_artifact_and_no_temporary_files(folder: Path) -> None:
    before = sorted(folder.parent.rglob("*"))
    with pytest.raises(ValueError, match="not JSON compliant"), ArtifactWriter(folder) as writer:
        writer.json("notes.json", float("nan"))
    assert sorted(folder.parent.rglob("*")) == before
    assert Artifact.open(str(folder)).json("notes.json") == {"seed": 7}


def test_a_metric_that_is_no_number_is_stored_as_null(tmp_path: Path) -> None:
    assert write(tmp_path / "model", ndcg=float("nan")).manifest.metrics == {"ndcg": None}


def test_a_failed_first_write_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), ArtifactWriter(tmp_path / "model"):
        raise RuntimeError
    assert not list(tmp_path.iterdir())


def test_a_crash_in_the_middle_does_not_break_the_next_write(tmp_path: Path) -> None:
    crash = """
import os, sys
from deployments.artifact.writer import ArtifactWriter
ArtifactWriter(sys.argv[1]).__enter__().json("half.json", 1)
os._exit(1)
"""
    subprocess.run([sys.executable, "-c", crash, str(tmp_path / "model")], check=False)
    assert (tmp_path / ".model.versions" / "partial" / "half.json").is_file()
    (tmp_path / ".model.versions" / "link").symlink_to("nowhere")
    artifact = write(tmp_path / "model")
    assert "half.json" not in artifact.manifest.files
    assert len(list((tmp_path / ".model.versions").iterdir())) == 1


def test_a_second_writer_is_refused_and_leaves_the_files_of_the_first(tmp_path: Path) -> None:
    out = tmp_path / "model"
    with ArtifactWriter(out) as first:
        first.json("a.json", 1)
        with pytest.raises(ArtifactError, match="another process is writing it"), ArtifactWriter(out):
            pass
        first.json("b.json", 2)
    assert Artifact.open(str(out)).manifest.files.keys() == {"a.json", "b.json"}
    with ArtifactWriter(out) as later:
        later.json("c.json", 3)
    assert Artifact.open(str(out)).manifest.files.keys() == {"c.json"}


def test_an_open_artifact_outlives_its_replacement(folder: Path) -> None:
    old = Artifact.open(str(folder))
    new = write(folder, value=2.0)
    assert old.tensors("items.safetensors")["item_vectors_ND"][0, 0] == 1.0
    assert new.tensors("items.safetensors")["item_vectors_ND"][0, 0] == 2.0


def test_the_three_newest_versions_are_kept(folder: Path) -> None:
    versions = [write(folder, value=float(value)).folder.name for value in range(2, 7)]
    assert sorted(path.name for path in (folder.parent / ".model.versions").iterdir()) == versions[-3:]


def test_an_old_version_that_can_not_be_removed_is_no_failure_of_the_writer(folder: Path) -> None:
    stray = folder.parent / ".model.versions" / "0-link-to-a-folder"
    stray.symlink_to(folder.parent)
    for value in range(2, 6):
        assert write(folder, value=float(value)).tensors("items.safetensors")["item_vectors_ND"][0, 0] == value
    assert stray.is_symlink()


HOLDER = """
import sys
from deployments.artifact.reader import Artifact
artifact = Artifact.open(sys.argv[1])
print(artifact.folder, flush=True)
sys.stdin.readline()
assert artifact.tensors("items.safetensors")["item_vectors_ND"][0, 0] == 1.0
assert Artifact.open(str(artifact.folder)).model_version == artifact.model_version
"""


def test_a_version_that_a_process_has_open_survives_retraining_and_is_removed_afterwards(folder: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        held = Path(holder.stdout.readline().strip())
        for value in range(2, 6):
            write(folder, value=float(value))
        assert held.is_dir()
        assert len(list(held.parent.iterdir())) == 4, "the three newest, and the one in use"
        holder.communicate("\n")
    assert holder.returncode == 0, "it reads its files, and opens them again"
    write(folder, value=6.0)
    assert not held.exists()


def test_an_artifact_is_held_while_it_lives(folder: Path) -> None:
    artifact = Artifact.open(str(folder))
    held = artifact.folder
    for value in range(2, 6):
        write(folder, value=float(value))
    assert held.is_dir()
    del artifact
    write(folder, value=6.0)
    assert not held.exists()


def test_where_there_are_no_locks_artifacts_open_and_every_version_is_kept(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    for value in range(2, 6):
        write(folder, value=float(value))
    assert len(list((folder.parent / ".model.versions").iterdir())) == 5


def test_an_artifact_on_a_read_only_folder_opens(folder: Path) -> None:
    version = folder.resolve()
    for path in (*version.iterdir(), version):
        path.chmod(0o555 if path.is_dir() else 0o444)
    assert Artifact.open(str(folder)).json("notes.json") == {"seed": 7}


def test_a_reader_that_comes_too_late_opens_the_version_that_replaced_its_own(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold, calls = version_lock.hold, []

    def slow(manifest: Path) -> int | None:
        calls.append(manifest)
        if len(calls) == 1:
            for value in range(2, 6):
                write(folder, value=float(value))
            assert not manifest.exists()
        return hold(manifest)

    monkeypatch.setattr(version_lock, "hold", slow)
    assert Artifact.open(str(folder)).tensors("items.safetensors")["item_vectors_ND"][0, 0] == 5.0


def test_another_model_version_than_the_one_asked_for_is_refused(folder: Path, remote: str) -> None:
    version = Artifact.open(str(folder)).model_version
    for uri in (str(folder), remote):
        assert Artifact.open(uri, version).model_version == version
        with pytest.raises(
            ArtifactError, match=rf"its model version is {version}, but args.model_version is 0+: it was"
        ):
            Artifact.open(uri, "0" * 16)


def test_a_copied_folder_is_replaced_and_anything_else_is_left_alone(tmp_path: Path, folder: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    assert write(copy, value=3.0).model_version != Artifact.open(str(folder)).model_version
    with pytest.raises(ArtifactError, match="something else is there"), ArtifactWriter(tmp_path):
        pass
    (tmp_path / "empty").mkdir()
    write(tmp_path / "empty")


@pytest.fixture
def remote(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    memory.put(f"{folder.resolve()}/", "/bucket/model/", recursive=True)
    return "memory://bucket/model"


def test_a_remote_artifact_is_copied_once(remote: str, folder: Path) -> None:
    artifact = Artifact.open(remote)
    assert artifact.model_version == Artifact.open(str(folder)).model_version
    fsspec.filesystem("memory").rm("/bucket/model/index.bin")
    assert Artifact.open(remote).path("index.bin").read_bytes() == b"index"


def test_a_damaged_cached_copy_is_fetched_again(remote: str) -> None:
    Artifact.open(remote).path("index.bin").write_bytes(b"Index")
    assert Artifact.open(remote).path("index.bin").read_bytes() == b"index"


def test_a_remote_artifact_is_checked(remote: str, tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe("/bucket/model/index.bin", b"Index")
    with pytest.raises(ArtifactError, match=r"index\.bin was altered"):
        Artifact.open(remote)
    memory.rm("/bucket/model/index.bin")
    with pytest.raises(ArtifactError, match=r"index\.bin is missing"):
        Artifact.open(remote)
    assert not list((tmp_path / "cache" / "rayfunnel" / "artifacts").iterdir())


@pytest.mark.parametrize(
    ("uri", "message"), [("memory://bucket/none", "there is no manifest"), ("nosuch://x/y", "it can't be read")]
)
def test_an_address_without_an_artifact_is_named(remote: str, uri: str, message: str) -> None:
    with pytest.raises(ArtifactError, match=f"{uri}: {message}"):
        Artifact.open(uri)
