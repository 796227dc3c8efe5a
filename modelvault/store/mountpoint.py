"""Which file system a path is on, and whether it is one that other machines write to as well.

LMDB maps its file into memory and locks it through shared memory; both are only right while every process that does
so runs on one kernel. The answer is read from the text of /proc/self/mountinfo, which proc_pid_mountinfo(5) describes.
What to do with the answer is for the store.
"""

from __future__ import annotations

import os
from pathlib import Path

from modelvault.errors import NetworkFileSystemError

NETWORK_FILE_SYSTEMS = frozenset(
    {
        "afs",
        "beegfs",
        "ceph",
        "cifs",
        "davfs",
        "fuse.ceph",
        "fuse.davfs",
        "fuse.gcsfuse",
        "fuse.glusterfs",
        "fuse.rclone",
        "fuse.s3fs",
        "fuse.sshfs",
        "glusterfs",
        "gpfs",
        "lustre",
        "ncpfs",
        "nfs",
        "nfs4",
        "smb3",
        "smbfs",
    }
)

_MOUNTS = Path("/proc/self/mountinfo")


def check_local(path: Path) -> None:
    """Refuse a path on a network file system.

    Raises:
        NetworkFileSystemError: it is on one.
    """
    kind = file_system_of(path)  # None without /proc: nothing is known, and that is no reason to refuse
    if kind in NETWORK_FILE_SYSTEMS:
        raise NetworkFileSystemError(
            f"{path} is on a network file system ({kind}), where memory maps and locks cannot be trusted",
            hint="keep the vault on a local disk and share it through a remote (push and pull)",
        )


def file_system_of(path: Path) -> str | None:
    """Return the type of the file system that holds a path, None if nobody knows."""
    try:
        mounts = _MOUNTS.read_bytes()
    except OSError:
        return None
    return file_system(path.resolve(), mounts.decode("utf-8", "surrogateescape"))


def file_system(path: Path, mounts: str) -> str | None:
    """Return the type of the file system that holds an absolute path, or None if no mount point does.

    Args:
        path: absolute, without symbolic links.
        mounts: the text of a mountinfo file.

    >>> file_system(Path("/data/run 1/x"), "36 25 0:31 / /data/run\\\\0401 rw - nfs4 host:/e rw")
    'nfs4'
    """
    found: str | None = None
    longest = -1
    for line in mounts.splitlines():
        before, separator, after = line.partition(" - ")
        fields, kinds = before.split(" "), after.split(" ")
        if not separator or len(fields) < 5:
            continue
        point = _unescaped(fields[4])
        # At equal length the later line wins: it was mounted over the earlier one.
        if len(point) >= longest and _holds(point, os.fspath(path)):
            found, longest = kinds[0], len(point)
    return found


def _holds(point: str, path: str) -> bool:
    return path == point or path.startswith(point if point.endswith("/") else point + "/")


def _unescaped(field: str) -> str:
    """Undo the kernel's octal escapes of blank, tab, line feed, backslash and hash."""
    head, *rest = field.split("\\")
    parts = [head]
    for piece in rest:
        digits = piece[:3]
        if len(digits) == 3 and all(digit in "01234567" for digit in digits):
            parts.append(chr(int(digits, 8)) + piece[3:])
        else:
            parts.append("\\" + piece)
    return "".join(parts)
