"""Which paths and ref names a vault may hold.

Paths come from users and, later, from strangers' bundles: the same rules are applied when a commit is made and again
when a file is written.
"""

from __future__ import annotations

import re

from modelvault.errors import NameRefusedError, UsageError

VAULT_DIRECTORY = ".modelvault"

_FORBIDDEN_COMPONENTS = frozenset({"", ".", ".."})
_NEVER_COMMITTED = frozenset({VAULT_DIRECTORY, ".git"})
_CONTROL = re.compile(r"[\x00-\x1f\x7f\x80-\x9f\u2028\u2029\ud800-\udfff]")
_BAD_IN_REF = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|\.lock(/|$)|/\.|\.$|/$")
_RESERVED_REFS = frozenset({"HEAD", "@", "latest"})
MAX_PATH_BYTES = 4096
_MAX_REF_BYTES = 255


def check_path(path: str) -> str:
    """Return `path` if it may stand in a snapshot: relative, forward slashes, nothing that climbs or hides.

    Raises:
        NameRefusedError: it may not; the message shows it escaped.
    """
    components = path.split("/")
    if _CONTROL.search(path):
        why = "it holds control characters or is not UTF-8"
    elif "\\" in path:
        why = "it holds a backslash"
    elif _FORBIDDEN_COMPONENTS.intersection(components):
        why = "it is absolute, empty or climbs"
    elif _NEVER_COMMITTED.intersection(component.lower() for component in components):
        why = "it lies inside a vault or a git repository's own directory"
    elif len(path.encode("utf-8")) > MAX_PATH_BYTES:
        why = f"it is longer than {MAX_PATH_BYTES} bytes"
    else:
        return path
    raise NameRefusedError(f"path {path!a} cannot be kept: {why}", hint="rename the file")


def check_ref(name: str, what: str) -> str:
    """Return `name` if a branch or tag (`what`) may be called so.

    Raises:
        UsageError: it may not.
    """
    refused = (
        not name
        or name in _RESERVED_REFS
        or name[0] in "-/."
        or _BAD_IN_REF.search(name)
        or _CONTROL.search(name)
        or len(name.encode("utf-8", "surrogateescape")) > _MAX_REF_BYTES
    )
    if refused:
        raise UsageError(
            f"{name!a} cannot be the name of a {what}",
            hint="use letters, digits, '-', '_', '/' and single dots; HEAD, @ and latest are taken",
        )
    return name


def slug(text: str) -> str:
    """Return the name under which a commit answers to its subject.

    >>> slug("Epoch 40: lr / 10")
    'epoch-40-lr-10'
    """
    return "-".join(re.findall(r"\w+(?:\.\w+)*", text.lower()))
