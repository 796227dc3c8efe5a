"""Every error ModelVault raises on purpose, with the exit code the command line gives it.

    ModelVaultError                 1   failed, or the answer is no
    ├── UsageError                  2   the call itself is wrong
    ├── InputError                  1   a file or name that cannot be taken as it is
    │   ├── FileChangedError        1   the file changed while it was read
    │   ├── ForgottenError          1   a commit that does not keep the bytes that are wanted
    │   └── NameRefusedError        1   a path that no vault may hold
    ├── UnsupportedError            1   this vault, file system or environment is not one we can work with
    │   ├── NewerFormatError        1   written by a later version
    │   └── NetworkFileSystemError  1   LMDB does not work there
    ├── PartlyDoneError             3   some of many succeeded
    ├── NoVaultError               10   no vault here or above
    ├── LockedError                11   somebody else holds the lock, and we gave up waiting
    ├── RevisionError              13
    │   ├── UnknownRevisionError   13
    │   └── AmbiguousRevisionError 13
    ├── CorruptError               14   stored bytes are not what was stored
    ├── NoSpaceError               15   the disk is full; what was there before is intact
    └── WouldLoseDataError         16   refused without --force

An error is one line that names the object and says what is wrong; `hint` says what to do about it. Messages have no
full stop at the end, so that an id there can be picked with a double click. An interruption (Ctrl-C) exits with 130.
This module imports nothing of ours and nothing heavy.
"""

from collections.abc import Sequence
from typing import ClassVar


class ModelVaultError(Exception):
    """Base of all errors of this package.

    Args:
        message: one line, names the object, says what was expected and what was found.
        hint: what the user can do, or None.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(ModelVaultError):
    """The call itself is wrong: an option's value, a combination, an empty message."""

    exit_code = 2


class InputError(ModelVaultError):
    """A file or name that cannot be taken as it is."""


class FileChangedError(InputError):
    """A file changed while it was being read, so there is no one content to commit."""


class ForgottenError(InputError):
    """A commit, or a part of it, was forgotten: its files are not to be rebuilt, or cannot be any more."""


class NameRefusedError(InputError):
    """A path that no vault may hold: absolute, climbing, with control characters, or a vault's own."""


class UnsupportedError(ModelVaultError):
    """The vault, the file system or the environment is one this version cannot work with."""


class NewerFormatError(UnsupportedError):
    """The vault was written by a later version in a format this one does not know."""


class NetworkFileSystemError(UnsupportedError):
    """The vault would live on a network file system, where memory maps and locks cannot be trusted."""


class PartlyDoneError(ModelVaultError):
    """Some of several things were done, others failed."""

    exit_code = 3


class NoVaultError(ModelVaultError):
    """There is no vault in this directory or any above it."""

    exit_code = 10


class LockedError(ModelVaultError):
    """Somebody else holds the lock, and the time to wait for it is over."""

    exit_code = 11


class RevisionError(ModelVaultError):
    """A revision that does not name exactly one commit."""

    exit_code = 13


class UnknownRevisionError(RevisionError):
    """No commit answers to this name."""


class AmbiguousRevisionError(RevisionError):
    """Several commits answer to this name; `candidates` lists them as printed lines."""

    def __init__(self, message: str, *, candidates: Sequence[str], hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.candidates = tuple(candidates)


class CorruptError(ModelVaultError):
    """Stored bytes are not what was stored: a checksum, an id, a length or a structure does not hold."""

    exit_code = 14


class NoSpaceError(ModelVaultError):
    """The disk is full. The transaction was abandoned; everything committed before is intact."""

    exit_code = 15


class WouldLoseDataError(ModelVaultError):
    """Carrying on would destroy bytes that no commit holds."""

    exit_code = 16
