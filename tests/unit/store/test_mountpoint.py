"""Is a network file system recognised, and nothing else taken for one?"""

from __future__ import annotations

from pathlib import Path

import pytest

from modelvault.errors import NetworkFileSystemError
from modelvault.store import mountpoint
from modelvault.store.lmdb_store import LmdbStore
from modelvault.store.mountpoint import NETWORK_FILE_SYSTEMS, check_local, file_system

MOUNTS = r"""22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
24 22 0:22 / /proc rw shared:13 - proc proc rw
40 22 0:35 / /home rw,relatime shared:20 master:3 propagate_from:2 - nfs4 server:/home rw,vers=4.2
41 40 8:1 / /home/local rw - xfs /dev/sda1 rw
42 22 0:40 / /mnt/two\040words rw - cifs //server/share rw
43 22 0:41 / /mnt/back\134slash\011tab rw - fuse.sshfs host: rw
44 22 0:42 / /over rw - nfs server:/a rw
45 44 8:2 / /over rw - ext4 /dev/sda2 rw
46 22 0:43 / /auto rw - autofs systemd-1 rw
47 46 0:44 / /auto rw - lustre mgs:/fs rw
48 22 0:45 / /odd\09x rw - tmpfs tmpfs rw
a line that is none
49 22 0:46
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "ext4"),
        ("/srv/run", "ext4"),
        ("/home", "nfs4"),
        ("/home/me/run", "nfs4"),
        ("/homework", "ext4"),
        ("/home/local/run", "xfs"),
        ("/home/locally", "nfs4"),
        ("/mnt/two words/run", "cifs"),
        ("/mnt/two", "ext4"),
        ("/mnt/back\\slash\ttab/run", "fuse.sshfs"),
        ("/over/run", "ext4"),
        ("/auto/run", "lustre"),
        ("/odd\\09x/run", "tmpfs"),
    ],
)
def test_the_longest_mount_point_decides(path: str, kind: str) -> None:
    assert file_system(Path(path), MOUNTS) == kind


def test_without_mounts_nothing_is_known() -> None:
    assert file_system(Path("/home"), "") is None


@pytest.mark.parametrize("kind", sorted(NETWORK_FILE_SYSTEMS))
def test_no_vault_is_made_or_opened_on_a_network(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vault = tmp_path / ".modelvault"
    LmdbStore.create(vault)
    mounts = tmp_path / "mountinfo"
    mounts.write_text(f"22 1 254:0 / / rw - ext4 /dev/vda rw\n23 22 0:9 / {tmp_path.resolve()} rw - {kind} there rw\n")
    monkeypatch.setattr(mountpoint, "_MOUNTS", mounts)
    with pytest.raises(NetworkFileSystemError, match=f"network file system .{kind}") as caught:
        LmdbStore(vault)
    assert caught.value.hint
    with pytest.raises(NetworkFileSystemError):
        LmdbStore.create(tmp_path / "other" / ".modelvault")
    assert not (tmp_path / "other").exists()


def test_a_link_is_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "near").symlink_to(tmp_path / "far")
    mounts = tmp_path / "mountinfo"
    mounts.write_text(f"23 22 0:9 / {(tmp_path / 'far').resolve()} rw - nfs there rw\n")
    monkeypatch.setattr(mountpoint, "_MOUNTS", mounts)
    with pytest.raises(NetworkFileSystemError):
        check_local(tmp_path / "near" / "run")


def test_without_proc_nothing_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mountpoint, "_MOUNTS", tmp_path / "absent")
    check_local(tmp_path)
