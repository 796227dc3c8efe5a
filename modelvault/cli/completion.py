"""`completion`: what a shell offers while a line is being typed. Light: neither numpy nor torch is imported.

The first word is one of our verbs and nothing else; after it come revisions, where a verb takes them, and files. For
`mv`, where it is ours, files come first: whoever moves files notices nothing.
"""

from __future__ import annotations

import itertools
from typing import Annotated, Literal

import typer

from modelvault.cli import render
from modelvault.cli.commands import COMMANDS, verbs
from modelvault.cli.mv_name import SHIM_MARKER
from modelvault.cli.options import Json
from modelvault.cli.topics import TOPICS
from modelvault.cli.vault import here
from modelvault.errors import ModelVaultError
from modelvault.repository import history, refs
from modelvault.repository.names import slug

Shell = Literal["bash", "zsh", "fish"]

_NO_REVISION = frozenset({"commit", "config", "gc", "identify", "status", "undo"})
"""Verbs in a vault whose words are files or nothing."""

_NEWEST = 50
"""Commits of the current branch whose subjects are offered: as many as anybody reads, read in a few milliseconds."""

_BASH = """\
# Completion of modelvault for bash: eval "$(modelvault completion bash)" in ~/.bashrc, after shell-init if used.
_modelvault() {
    local word=${COMP_WORDS[COMP_CWORD]} place=1
    COMPREPLY=()
    if [ "${COMP_WORDS[1]-}" = -C ]; then
        place=3
        if [ "$COMP_CWORD" -lt 3 ]; then return; fi
    fi
    if [ "$COMP_CWORD" -eq "$place" ]; then
        compopt +o default +o bashdefault 2>/dev/null
        COMPREPLY=($(compgen -W '@VERBS@' -- "$word"))
        return
    fi
    case ${COMP_WORDS[place]} in
        help) COMPREPLY=($(compgen -W '@TOPICS@ @VERBS@' -- "$word")) ;;
        completion|shell-init) COMPREPLY=($(compgen -W 'bash zsh fish' -- "$word")) ;;
        @REVISION_VERBS@) COMPREPLY=($(compgen -W "$(modelvault completion revisions 2>/dev/null)" -- "$word")) ;;
    esac
}
_modelvault_mv() {
    local word=${COMP_WORDS[COMP_CWORD]}
    COMPREPLY=()
    if [ "$COMP_CWORD" -eq 1 ]; then
        if [ -z "$(compgen -f -- "$word")" ]; then COMPREPLY=($(compgen -W '@VERBS@' -- "$word")); fi
        return
    fi
    case ${COMP_WORDS[1]} in
        @ANY_VERB@) if [ ! -e "${COMP_WORDS[1]}" ]; then _modelvault; fi ;;
    esac
}
complete -o bashdefault -o default -F _modelvault modelvault
if [[ "$(type mv 2>/dev/null)" == *modelvault* ]] ||
    head -n 2 -- "$(type -P mv)" 2>/dev/null | grep -qaxF '@MARKER@'; then
    complete -o bashdefault -o default -F _modelvault_mv mv
fi
"""

_ZSH = """\
# Completion of modelvault for zsh: eval "$(modelvault completion zsh)" in ~/.zshrc, after compinit.
_modelvault() {
    local place=2
    if [[ ${words[2]} == -C ]]; then
        place=4
        if (( CURRENT < 4 )); then _files -/; return; fi
    fi
    if (( CURRENT == place )); then
        compadd -- @VERBS@
        return
    fi
    case ${words[place]} in
        help) compadd -- @TOPICS@ @VERBS@ ;;
        completion|shell-init) compadd -- bash zsh fish ;;
        @REVISION_VERBS@)
            compadd -- ${(f)"$(modelvault completion revisions 2>/dev/null)"}
            _files ;;
        *) _files ;;
    esac
}
_modelvault_mv() {
    if (( CURRENT == 2 )); then
        _files || compadd -- @VERBS@
        return
    fi
    case ${words[2]} in
        @ANY_VERB@) if [[ ! -e ${words[2]} ]]; then _modelvault; return; fi ;;
    esac
    _files
}
if (( $+functions[compdef] )); then
    compdef _modelvault modelvault
    if [[ ${functions[mv]-} == *modelvault* ]] ||
        head -n 2 -- ${commands[mv]-} 2>/dev/null | grep -qaxF '@MARKER@'; then
        compdef _modelvault_mv mv
    fi
fi
"""

_FISH = """\
# Completion of modelvault for fish: modelvault completion fish | source, in config.fish.
function __modelvault_verb
    set -l words (commandline -opc)
    set -e words[1]
    if test "$words[1]" = -C
        set -e words[1..2]
    end
    echo $words[1]
end
function __modelvault_needs_verb
    set -l words (commandline -opc)
    if test "$words[2]" = -C
        test (count $words) -eq 3
    else
        test (count $words) -eq 1
    end
end
complete -c modelvault -n __modelvault_needs_verb -f -a '@VERBS@'
complete -c modelvault -n 'test (__modelvault_verb) = help' -f -a '@TOPICS@ @VERBS@'
complete -c modelvault -n 'contains -- (__modelvault_verb) completion shell-init' -f -a 'bash zsh fish'
set -l revisions '(modelvault completion revisions 2>/dev/null)'
complete -c modelvault -n 'contains -- (__modelvault_verb) @REVISION_WORDS@' -a $revisions
if functions mv 2>/dev/null | string match -q '*modelvault*'
    complete -c mv -n 'contains -- (__modelvault_verb) @REVISION_WORDS@' -a $revisions
end
"""

_SCRIPTS: dict[Shell, str] = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}


def completion(
    what: Annotated[
        Literal["bash", "zsh", "fish", "revisions"],
        typer.Argument(help="Which shell is to evaluate this; or what the scripts ask for, one name a line."),
    ],
    json: Json = False,
) -> None:
    """Print a script that completes verbs, revisions and files.

    Put  eval "$(modelvault completion bash)"  into ~/.bashrc, the like for zsh, or
    modelvault completion fish | source  into config.fish.
    """
    if what != "revisions":
        if json:
            render.json_object({"schema": "modelvault.completion/1", "shell": what, "script": script(what)})
        else:
            render.data(script(what).rstrip("\n"))
        return
    try:
        names = revisions()
    except ModelVaultError:
        names = []  # nobody wants an error in the middle of a line
    if json:
        render.json_object({"schema": "modelvault.completion/1", "revisions": names})
    elif names:
        render.lines(names)


def script(shell: Shell) -> str:
    """Return the script for a shell."""
    every = sorted(COMMANDS)
    with_revisions = sorted(set(verbs(anywhere=False)) - _NO_REVISION)
    values = {
        "@VERBS@": " ".join(every),
        "@ANY_VERB@": "|".join(every),
        "@TOPICS@": " ".join(TOPICS),
        "@REVISION_VERBS@": "|".join(with_revisions),
        "@REVISION_WORDS@": " ".join(with_revisions),
        "@MARKER@": SHIM_MARKER,
    }
    text = _SCRIPTS[shell]
    for name, value in values.items():
        text = text.replace(name, value)
    return text


def revisions() -> list[str]:
    """Return names that may be typed: keywords, branches, tags, and the newest commits of the current branch."""
    with here().store.read() as txn:
        names = [*refs.list_refs(txn, refs.BRANCHES), *refs.list_refs(txn, refs.TAGS)]
        tip = refs.head_commit(txn)
        if tip is not None:
            newest = itertools.islice(history.walk(txn, [tip]), _NEWEST)
            names = ["HEAD", "latest", *names, *(slug(commit.subject) for _, commit in newest)]
    return [name for name in dict.fromkeys(names) if name and name.isprintable() and " " not in name]
