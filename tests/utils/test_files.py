"""Files are read only if they are files, and written where nobody can have laid a trap."""

from __future__ import annotations

import errno
import os
import re
import socket
import stat
from pathlib import Path

import pytest

from openvclip.checkpoints.files import save_file
from openvclip.utils.errors import CheckpointError
from openvclip.utils.files import (
    UnfitFileError,
    advise_on_space,
    check_replaceable,
    compute_file_hash,
    create_new,
    explain_refusal,
    open_append,
    open_regular,
    read_bytes,
    read_text,
    replacing,
    replacing_file,
    temporary_name,
)

OPENERS = (open_regular, read_bytes, read_text, open_append)


@pytest.mark.parametrize("opener", OPENERS)
def test_pipes_devices_and_folders_are_refused_at_once(opener, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/dev/zero")
    for path, kind in ((tmp_path / "pipe", "a pipe"), ("/dev/zero", "a device"),
                       (tmp_path / "link", "a device"), (tmp_path, "a folder")):
        with pytest.raises(UnfitFileError, match=kind) as caught:
            opener(path)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_pipe_that_somebody_writes_to_is_refused_too(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    end = os.open(tmp_path / "pipe", os.O_RDWR)
    for opener in OPENERS:
        with pytest.raises(UnfitFileError):
            opener(tmp_path / "pipe")
    os.close(end)


def test_large_files_are_refused_before_they_are_read(tmp_path):
    path = tmp_path / "large"
    with open(path, "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(UnfitFileError, match="1,099,511,627,776 bytes"):
        read_bytes(path)
    with pytest.raises(FileNotFoundError):
        read_bytes(tmp_path / "none")
    (tmp_path / "text").write_bytes("a\r\né\rb\n".encode())
    assert read_text(tmp_path / "text") == (tmp_path / "text").read_text("utf-8") == "a\né\nb\n"


def test_writing_follows_no_link_and_needs_no_free_name(tmp_path):
    (tmp_path / "outside").write_text("mine")
    folder = tmp_path / "run"
    folder.mkdir()
    for name in (".a.csv.tmp", "a.csv.part", f".a.csv.{os.getpid()}.tmp", "a.csv"):
        (folder / name).symlink_to(tmp_path / "outside")
    with replacing(folder / "a.csv") as file:
        file.write("new")
    assert (tmp_path / "outside").read_text() == "mine"
    assert (folder / "a.csv").read_text() == "new" and not (folder / "a.csv").is_symlink()
    assert len(list(folder.iterdir())) == 4


@pytest.mark.parametrize(("kind", "said"), [
    ("pipe", "a pipe (FIFO)"), ("socket", "a socket"), ("folder", "a folder")])
def test_writing_replaces_nothing_but_files_and_links(tmp_path, monkeypatch, kind, said):
    monkeypatch.chdir(tmp_path)  # names of sockets are short
    if kind == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(kind)
    else:
        os.mkfifo(kind) if kind == "pipe" else os.mkdir(kind)
    before = os.lstat(kind)
    with pytest.raises(UnfitFileError, match=re.escape(f"{kind} is {said}, not a regular file")), \
            replacing(kind) as file:
        file.write("new")
    with pytest.raises(CheckpointError, match=f"cannot write {kind} is .*give another name"):
        save_file(kind, {})
    assert os.lstat(kind).st_ino == before.st_ino and os.listdir() == [kind]
    (tmp_path / "link").symlink_to(kind)
    with replacing("link") as file:
        file.write("new")
    assert Path("link").read_text() == "new" and not Path("link").is_symlink()
    check_replaceable("link")


def test_space_is_to_be_freed_where_it_lacks_only(tmp_path):
    (tmp_path / "file").touch()
    for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        assert advise_on_space(OSError(code, "x")) == "free space or "
    error = OSError(errno.ENOENT, "No such file or directory")
    assert advise_on_space(error) == ""
    assert explain_refusal(error, tmp_path) == "No such file or directory"
    for place in ("file", "file/a/b"):
        assert explain_refusal(error, tmp_path / place) == f"{tmp_path / 'file'} is not a folder"
    assert explain_refusal(error, tmp_path / "a/b") == (
        "it cannot be made (No such file or directory)")


def test_names_are_random_and_taken_by_nobody(tmp_path, monkeypatch):
    assert temporary_name(tmp_path / "a") != temporary_name(tmp_path / "a")
    monkeypatch.setattr("secrets.token_hex", lambda count: "known")
    taken = temporary_name(tmp_path / "a")
    taken.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FileExistsError), replacing_file(tmp_path / "a"):
        pass
    with pytest.raises(FileExistsError):
        create_new(taken)
    assert not (tmp_path / "elsewhere").exists()


def test_long_names_leave_room_for_the_temporary_one(tmp_path):
    for name in ("x" * 255, "é" * 127, "\U0001f600" * 63):
        with replacing(tmp_path / name) as file:
            file.write(name)
        assert (tmp_path / name).read_text("utf-8") == name


def test_nothing_is_left_after_an_error(tmp_path):
    (tmp_path / "a").write_text("old")
    with pytest.raises(OSError), replacing(tmp_path / "a") as file:
        file.write("new")
        raise OSError(errno.ENOSPC, "full")
    assert os.listdir(tmp_path) == ["a"] and (tmp_path / "a").read_text() == "old"


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_permissions_are_those_of_an_ordinary_file(tmp_path, mask):
    before = os.umask(mask)
    try:
        with replacing(tmp_path / "a") as file:
            file.write("x")
        open_append(tmp_path / "b").close()
        create_new(tmp_path / "c").close()
    finally:
        os.umask(before)
    for name in "abc":
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o666 & ~mask


def test_appending_goes_on_at_the_end(tmp_path):
    for text in ("a\n", "é\n"):
        with open_append(tmp_path / "log") as file:
            file.write(text)
    assert (tmp_path / "log").read_text("utf-8") == "a\né\n"
    assert compute_file_hash(tmp_path / "log") and compute_file_hash("ViT-B-16") is None
