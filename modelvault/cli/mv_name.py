"""The name `mv`: a shell function or a small shim that shares it with the system's mv.

The wheel installs only `modelvault`: a script called `mv` in an environment would stand before the system's mv for
every Makefile and package manager. Who wants the short name asks for it, and gets text that hands every line which the
system's mv can carry out to the system's mv. The rule, in this order:

1. `MODELVAULT_MV=off`, or the caller is ModelVault itself: the system's mv.
2. One leading flag of those that aliases put there (-i -f -n -v -iv -vi) is skipped if a verb of ours follows.
3. The first word is no verb of ours: the system's mv.
4. A file, a directory or a dangling link has that name: the system's mv.
5. The verb needs a vault, and there is none here or above (`MODELVAULT_DIR` counts as one): the system's mv.
6. Three words or more, the last an existing directory (or one of them names a target, -t, or a suffix, -S), and another
   one exists: refused with exit code 2. The real mv would fail on the verb and move the rest.
7. Otherwise modelvault: the real mv could only have failed.

Where `modelvault` is not on PATH, a line that would be ours says so on stderr and lets the system's mv fail in its own
words: the exit code stays the one that a script knows, and a shim that outlived its package is still an mv.

An alias `mv` is left alone. It puts its flag in front of the function or the shim, and whoever has `mv -i` keeps being
asked before a file is overwritten.

This module knows shells and files, not commands: the verbs are handed in. It imports nothing heavy.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from modelvault.errors import InputError, ModelVaultError, NoSpaceError

Shell = Literal["bash", "zsh", "fish"]

SHIM_MARKER = "# The mv of ModelVault: written by install-shim, removed by uninstall-shim."
"""The second line of every shim of every version, for ever: we and other shims know them by it."""

_VERB = re.compile(r"[a-z][a-z0-9-]*")
_ALIAS_FLAGS = ("-i", "-f", "-n", "-v", "-iv", "-vi")
_TARGET_FLAGS = ("-t*", "-S*", "--target-directory*", "--suffix*")
_SYSTEM_DIRECTORIES = ("/bin", "/sbin", "/usr/bin", "/usr/sbin")


@dataclass(frozen=True)
class VerbTable:
    """The closed list of first words that are ours.

    Attributes:
        anywhere: verbs that need no vault.
        in_vault: verbs that mean something in a vault only.
    """

    anywhere: tuple[str, ...]
    in_vault: tuple[str, ...]

    def __post_init__(self) -> None:
        """Refuse what could not stand unquoted in a shell's case pattern, or in both lists."""
        verbs = self.anywhere + self.in_vault
        strange = [verb for verb in verbs if not _VERB.fullmatch(verb)]
        if strange or len(set(verbs)) != len(verbs):
            raise ValueError(f"not a table of verbs: {strange or 'a verb stands there twice'}")


# The rule in POSIX sh, as the body of a function. @SYSTEM@, @REFUSE@ and @MODELVAULT@ do not come back.
_RULE = """\
    # 1. switched off, or called by ModelVault itself
    if [ "${MODELVAULT_MV-}" = off ] || [ -n "${_MODELVAULT_MV-}" ]; then
        @SYSTEM@
    fi
    # 2. one flag, put in front by an alias
    _mv_flag=
    _mv_verb=${1-}
    case $_mv_verb in
        @ALIAS_FLAGS@) _mv_flag=$1 _mv_verb=${2-} ;;
    esac
    # 3. no verb of ours
    case $_mv_verb in
        @VERBS@
        *) @SYSTEM@ ;;
    esac
    # 4. something has that name
    if [ -e "$_mv_verb" ] || [ -L "$_mv_verb" ]; then
        @SYSTEM@
    fi
    # 5. no vault here or above
    if [ "$_mv_scope" = vault ] && [ -z "${MODELVAULT_DIR-}" ]; then
        _mv_dir=$(command pwd -P)
        until [ -d "$_mv_dir/.modelvault" ]; do
            if [ -z "$_mv_dir" ]; then
                @SYSTEM@
            fi
            _mv_dir=${_mv_dir%/*}
        done
    fi
    if ! command -v modelvault >/dev/null 2>&1; then
        echo "mv: $_mv_verb is a command of ModelVault, but modelvault is not on PATH" >&2
        @SYSTEM@
    fi
    if [ -n "$_mv_flag" ]; then
        shift
    fi
    # 6. the system's mv would fail on the verb and still move the rest
    if [ $# -ge 3 ]; then
        _mv_target=
        _mv_last=
        _mv_found=0
        for _mv_word in "$@"; do
            if [ -e "$_mv_word" ] || [ -L "$_mv_word" ]; then
                _mv_found=$((_mv_found + 1))
                _mv_last=$_mv_word
                continue
            fi
            case $_mv_word in
                @TARGET_FLAGS@) _mv_target=named ;;
                -?*) ;;
                *) _mv_last=$_mv_word ;;
            esac
        done
        if [ -z "$_mv_target" ] && [ -d "$_mv_last" ]; then
            _mv_found=$((_mv_found - 1))
            _mv_target=last
        fi
        if [ -n "$_mv_target" ] && [ "$_mv_found" -gt 0 ]; then
            echo "mv: $_mv_verb is no file, but the system's mv would move the others: nothing done" >&2
            echo "hint: say modelvault $_mv_verb ..., or MODELVAULT_MV=off mv $_mv_verb ..." >&2
            @REFUSE@
        fi
    fi
    # 7. ours
    @MODELVAULT@
"""

_SHIM = """\
#!/bin/sh
@MARKER@
# A line that the system's mv can carry out goes to the system's mv; with MODELVAULT_MV=off, every line.

is_shim() {
    [ -r "$1" ] && { read -r _mv_line && read -r _mv_line; } <"$1" && [ "$_mv_line" = "$marker" ]
}

# Become the next mv on PATH that is no shim. One that leads back here was a wrapper: then the standard one.
system_mv() {
    _mv_path=/bin:/usr/bin:
    if [ "${_MODELVAULT_MV-}" != system ] && [ -n "${PATH-}" ]; then
        _mv_path=$PATH:$_mv_path
    fi
    while [ -n "$_mv_path" ]; do
        _mv_dir=${_mv_path%%:*}
        _mv_path=${_mv_path#*:}
        _mv_file=${_mv_dir:-.}/mv
        if [ -f "$_mv_file" ] && [ -x "$_mv_file" ] && ! is_shim "$_mv_file"; then
            _MODELVAULT_MV=system
            export _MODELVAULT_MV
            exec "$_mv_file" "$@"
        fi
    done
    echo 'mv: there is no mv on PATH but this shim' >&2
    exit 127
}

mv_or_modelvault() {
@RULE@}

marker='@MARKER@'
mv_or_modelvault "$@"
"""

_FUNCTION = """\
# ModelVault: mv as a second name of modelvault, in interactive shells only.
case $- in *i*)
function mv {
    local _mv_flag _mv_verb _mv_scope _mv_dir _mv_word _mv_target _mv_last _mv_found
@RULE@}
;; esac
"""

_FISH = """\
# ModelVault: mv as a second name of modelvault, in interactive shells only.
if status is-interactive
    # An alias is a function in fish: it stays what the system's mv is called by.
    if functions --query mv; and not set --query --global __modelvault_mv
        functions --copy mv __modelvault_system_mv
    else if not functions --query __modelvault_system_mv
        function __modelvault_system_mv
            command mv $argv
        end
    end
    set --global __modelvault_mv defined

    function mv --description 'modelvault, or the system mv for every line that it can carry out'
        # 1. switched off, or called by ModelVault itself
        if test "$MODELVAULT_MV" = off; or test -n "$_MODELVAULT_MV"
            __modelvault_system_mv $argv
            return
        end
        # 2. one flag, put in front by habit
        set --local words $argv
        if contains -- "$words[1]" @ALIAS_FLAGS@
            set --erase words[1]
        end
        # 3. no verb of ours; 4. something has that name
        set --local verb "$words[1]"
        if not contains -- "$verb" @VERBS@; or test -e "$verb"; or test -L "$verb"
            __modelvault_system_mv $argv
            return
        end
        # 5. no vault here or above
        if not contains -- "$verb" @ANYWHERE@; and test -z "$MODELVAULT_DIR"
            set --local dir (command pwd -P)
            while not test -d "$dir/.modelvault"
                if test -z "$dir"
                    __modelvault_system_mv $argv
                    return
                end
                set dir (string replace --regex '/[^/]*$' '' -- "$dir")
            end
        end
        if not command --query modelvault
            echo "mv: $verb is a command of ModelVault, but modelvault is not on PATH" >&2
            __modelvault_system_mv $argv
            return
        end
        # 6. the system's mv would fail on the verb and still move the rest
        if test (count $words) -ge 3
            set --local target
            set --local last
            set --local found 0
            for word in $words
                if test -e "$word"; or test -L "$word"
                    set found (math $found + 1)
                    set last $word
                else if string match --quiet --regex -- '^(@TARGET_REGEX@)' $word
                    set target named
                else if not string match --quiet -- '-?*' $word
                    set last $word
                end
            end
            if test -z "$target"; and test -d "$last"
                set found (math $found - 1)
                set target last
            end
            if test -n "$target"; and test $found -gt 0
                echo "mv: $verb is no file, but the system's mv would move the others: nothing done" >&2
                echo "hint: say modelvault $verb ..., or MODELVAULT_MV=off mv $verb ..." >&2
                return 2
            end
        end
        # 7. ours
        set --local --export _MODELVAULT_MV modelvault
        command modelvault $words
    end
end
"""


def shell_function(shell: Shell, verbs: VerbTable) -> str:
    """Return the text that defines the function `mv` in an interactive `shell`.

    bash and zsh read it with `eval "$(modelvault shell-init bash)"`, fish with `modelvault shell-init fish | source`.
    It is written `function mv {`, because bash takes `mv() {` for a syntax error where an alias `mv` exists.
    """
    if shell == "fish":
        return _filled(
            _FISH,
            ALIAS_FLAGS=" ".join(_ALIAS_FLAGS),
            VERBS=" ".join(verbs.anywhere + verbs.in_vault),
            ANYWHERE=" ".join(verbs.anywhere),
            TARGET_REGEX="|".join(flag.removesuffix("*") for flag in _TARGET_FLAGS),
        )
    rule = _rule(
        verbs,
        system='command mv "$@"; return',
        modelvault='_MODELVAULT_MV=modelvault command modelvault "$@"',
        refuse="return 2",
    )
    return _filled(_FUNCTION, RULE=rule)


def shim_script(verbs: VerbTable) -> str:
    """Return the shim: a POSIX sh script to be placed as `mv` before the system's on PATH.

    It starts no process before it hands an ordinary line over. Shims on one PATH skip each other.
    """
    rule = _rule(
        verbs,
        system='system_mv "$@"',
        modelvault='_MODELVAULT_MV=modelvault\n    export _MODELVAULT_MV\n    exec modelvault "$@"',
        refuse="exit 2",
    )
    return _filled(_SHIM, MARKER=SHIM_MARKER, RULE=rule)


def default_directory() -> Path:
    """Return the directory of a user's own programs, `~/.local/bin`."""
    return Path.home() / ".local" / "bin"


def install_shim(directory: Path, verbs: VerbTable, force: bool = False) -> Path:
    """Write the shim as `directory/mv`, over an older shim if there is one, and return its path.

    Args:
        directory: where; it is made if missing.
        verbs: what the shim diverts.
        force: allow a directory that belongs to the system. A file that is no shim is never overwritten.

    Raises:
        InputError: another file is there, the directory is the system's, or it cannot be written.
    """
    target = directory / "mv"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if not force and directory.resolve() in {Path(name).resolve() for name in _SYSTEM_DIRECTORIES}:
            raise InputError(
                f"{directory} belongs to the system, whose scripts would all meet the shim",
                hint=f"choose a directory of your own such as {default_directory()}, or pass --force",
            )
        if os.path.lexists(target) and not _is_shim(target):
            raise InputError(
                f"{target} exists and is not ModelVault's: it stays as it is",
                hint="choose another directory that stands before the system's on PATH",
            )
        _write_program(target, shim_script(verbs))
    except OSError as error:
        raise _as_ours(error, f"cannot write {target}") from error
    return target


def uninstall_shim(directory: Path) -> Path:
    """Remove the shim `directory/mv` and return its path.

    Raises:
        InputError: there is none, or the file of that name is not ours.
    """
    target = directory / "mv"
    try:
        if not os.path.lexists(target):
            raise InputError(f"there is no shim {target}", hint="name the directory given to install-shim")
        if not _is_shim(target):
            raise InputError(f"{target} is not ModelVault's: it stays as it is")
        target.unlink()
    except OSError as error:
        raise _as_ours(error, f"cannot remove {target}") from error
    return target


def _rule(verbs: VerbTable, *, system: str, modelvault: str, refuse: str) -> str:
    scopes = {"anywhere": verbs.anywhere, "vault": verbs.in_vault}
    arms = [f"{' | '.join(names)}) _mv_scope={scope} ;;" for scope, names in scopes.items() if names]
    return _filled(
        _RULE,
        ALIAS_FLAGS=" | ".join(_ALIAS_FLAGS),
        TARGET_FLAGS=" | ".join(_TARGET_FLAGS),
        VERBS="\n        ".join(arms),
        SYSTEM=system,
        MODELVAULT=modelvault,
        REFUSE=refuse,
    )


def _filled(template: str, **values: str) -> str:
    """Return `template` with each @NAME@ replaced."""
    return re.sub("@([A-Z_]+)@", lambda match: values[match[1]], template)


def _is_shim(path: Path) -> bool:
    """Say whether the file itself, not what a link points to, is a shim of any version."""
    if not stat.S_ISREG(path.lstat().st_mode):
        return False
    with path.open("rb") as file:
        head = file.read(4 * len(SHIM_MARKER))
    return head.split(b"\n")[1:2] == [SHIM_MARKER.encode()]


def _write_program(target: Path, text: str) -> None:
    """Put an executable file in place in one step, so that whoever runs `mv` meanwhile finds a whole one."""
    temporary = target.with_name(f".mv.{secrets.token_hex(8)}")
    try:
        with temporary.open("xb") as file:
            file.write(text.encode())
            file.flush()
            os.fchmod(file.fileno(), 0o755)
            os.fsync(file.fileno())
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _as_ours(error: OSError, what: str) -> ModelVaultError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoSpaceError(f"{what}: the disk is full")
    return InputError(f"{what}: {error.strerror}")
