"""Does `mv`, shim or function, do what the real mv does, and divert only what the real mv must refuse?

Every line is run twice on identical trees: by the real mv, and by each form of ours in each shell there is, with a
`modelvault` on PATH that only records its words. bash and a POSIX sh are always there; busybox, zsh and fish are tried
where they are installed.
"""

from __future__ import annotations

import functools
import random
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from modelvault.cli.commands import verbs
from modelvault.cli.mv_name import (
    SHIM_MARKER,
    Shell,
    VerbTable,
    default_directory,
    install_shim,
    shell_function,
    shim_script,
    uninstall_shim,
)
from modelvault.errors import InputError

VERBS = VerbTable(anywhere=("help", "init", "version"), in_vault=("checkout", "commit", "log"))
REAL_MV = shutil.which("mv") or "/bin/mv"
TOOLS = str(Path(REAL_MV).parent)

RECORDER = """\
#!/bin/sh
printf '%s\\0' "$@" >"$RECORD"
"""

SHIM_SHELLS: dict[str, tuple[str, ...]] = {
    "sh": ("sh",),
    "dash": ("dash",),
    "bash": ("bash",),
    "bash as sh": ("bash", "--posix"),
    "busybox": ("busybox", "sh"),
}

# A line is run as the script's own arguments: no shell ever parses its words again.
FUNCTION_SHELLS: dict[Shell, tuple[str, ...]] = {
    "bash": ("bash", "--norc", "-i", "-c", 'eval "$FUNCTION"; mv "$@" 2>"$ERRORS"', "mv"),
    "zsh": ("zsh", "-f", "-i", "-c", 'eval "$FUNCTION"; mv "$@" 2>"$ERRORS"', "mv"),
    "fish": ("fish", "--no-config", "-i", "-c", 'printf %s $FUNCTION | source; mv $argv 2>"$ERRORS"', "--"),
}


class Outcome(NamedTuple):
    """What a run left behind; `words` are those that modelvault was called with, None if it was not."""

    status: int
    stdout: str
    stderr: str
    tree: dict[str, str]
    words: tuple[str, ...] | None


class Bench:
    """A place with a bin directory for each form of mv, and as many identical trees as there are runs."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.record = place / "record"
        self.errors = place / "errors"
        self.bin = place / "modelvault-bin"
        self.bin.mkdir()
        _program(self.bin / "modelvault", RECORDER)
        self.shim = install_shim(place / "shim-bin", VERBS)
        self._runs = 0

    def tree(self, build: Callable[[Path], None], *, vault: bool) -> Path:
        """Build one more tree and return the directory to run in."""
        self._runs += 1
        root = self.place / f"tree-{self._runs}"
        work = root / "run" / "inner"
        work.mkdir(parents=True)
        if vault:
            (root / "run" / ".modelvault").mkdir()
        build(work)
        return work

    def run(
        self,
        form: str,
        words: tuple[str, ...],
        build: Callable[[Path], None],
        *,
        vault: bool = True,
        env: dict[str, str] | None = None,
        path: tuple[Path | str, ...] = (),
    ) -> Outcome:
        """Run `mv` with `words` in a fresh tree.

        Args:
            form: "real", or the kind and the shell, as in "shim dash" and "function bash".
            words: the arguments.
            build: puts files into the tree.
            vault: make a vault above the directory.
            env: further variables.
            path: stands at the head of PATH instead of the directories of the shim and the recorder.
        """
        work = self.tree(build, vault=vault)
        kind, _, shell = form.partition(" ")
        head = path or ((self.shim.parent, self.bin) if kind == "shim" else (self.bin,))
        variables = {
            "PATH": ":".join([*map(str, head), TOOLS, _shell_directory(shell), "/usr/bin", "/bin"]),
            "HOME": str(self.place),
            "LC_ALL": "C",
            "RECORD": str(self.record),
            "ERRORS": str(self.errors),
            **(env or {}),
        }
        if kind == "real":
            command = [REAL_MV]
        elif kind == "shim":
            first, *rest = SHIM_SHELLS[shell]
            command = [_find(first), *rest, str(self.shim)]
        else:
            name = _shell(shell)
            first, *rest = FUNCTION_SHELLS[name]
            command = [_find(first), *rest]
            variables["FUNCTION"] = shell_function(name, VERBS)
        self.record.unlink(missing_ok=True)
        self.errors.unlink(missing_ok=True)
        done = subprocess.run(
            [*command, *words],
            cwd=work,
            env=variables,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
        # An interactive shell without a terminal complains about it, so the function's own stderr goes to a file.
        stderr = self.errors.read_text() if kind == "function" else done.stderr
        called = tuple(self.record.read_text().split("\0")[:-1]) if self.record.exists() else None
        return Outcome(done.returncode, done.stdout, stderr, _listing(work), called)


def _program(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def _listing(root: Path) -> dict[str, str]:
    """Return every path below `root` with what is there: a link's target, a file's text, or "/" for a directory."""
    found = {}
    for path in sorted(root.rglob("*")):
        content = f"-> {path.readlink()}" if path.is_symlink() else "/" if path.is_dir() else path.read_text()
        found[str(path.relative_to(root))] = content
    return found


@functools.cache
def _find(program: str) -> str:
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"{program} is not installed")
    return found


def _shell_directory(shell: str) -> str:
    return str(Path(shutil.which(shell) or "/bin/sh").parent)


def _shell(name: str) -> Shell:
    return next(shell for shell in FUNCTION_SHELLS if shell == name)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


FORMS = [*(f"shim {shell}" for shell in SHIM_SHELLS), *(f"function {shell}" for shell in FUNCTION_SHELLS)]


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest) -> str:
    chosen = str(request.param)
    kind, _, shell = chosen.partition(" ")
    _find(SHIM_SHELLS[shell][0] if kind == "shim" else FUNCTION_SHELLS[_shell(shell)][0])
    return chosen


def files(work: Path) -> None:
    """The ordinary tree: two files, a directory, and names that try a shell's quoting."""
    (work / "a").write_text("a")
    (work / "b").write_text("b")
    (work / "dir").mkdir()
    (work / "two words").write_text("spaces")
    (work / "two\nlines").write_text("newline")
    (work / "-x").write_text("dash")
    (work / "back\\slash").write_text("backslash")
    (work / "*").write_text("star")


def with_file(work: Path) -> None:
    files(work)
    (work / "commit").write_text("a file named like a verb")


def with_directory(work: Path) -> None:
    files(work)
    (work / "commit").mkdir()
    (work / "commit" / "inside").write_text("inside")


def with_dangling_link(work: Path) -> None:
    files(work)
    (work / "commit").symlink_to("nowhere")


# What the real mv gets, although every line is typed in a vault.
SYSTEM_LINES = {
    "rename": (files, ("a", "c")),
    "replace": (files, ("a", "b")),
    "into a directory": (files, ("a", "dir")),
    "several into a directory": (files, ("a", "b", "dir/")),
    "a flag": (files, ("-f", "a", "b")),
    "two flags": (files, ("-v", "-n", "a", "b")),
    "a flag that asks": (files, ("-i", "a", "b")),
    "a backup": (files, ("--backup=numbered", "a", "b")),
    "a target first": (files, ("-t", "dir", "a")),
    "end of options": (files, ("--", "-x", "y")),
    "a leading dash": (files, ("./-x", "dir")),
    "spaces": (files, ("two words", "three words now")),
    "newlines": (files, ("two\nlines", "one\nand\nmore\n")),
    "backslash": (files, ("back\\slash", "back\\\\nslash")),
    "a star": (files, ("*", "?")),
    "no words": (files, ()),
    "an empty word": (files, ("", "a")),
    "help": (files, ("--help",)),
    "version": (files, ("--version",)),
    "a missing file": (files, ("missing", "dir")),
    "a missing file among others": (files, ("missing", "a", "dir")),
    "an option after": (files, ("a", "dir", "-v")),
    "only a flag": (files, ("-i",)),
    "two flags, then a verb": (files, ("-i", "-v", "commit", "a")),
    "the verb comes second": (files, ("a", "commit")),
    "the verb after a target": (files, ("-t", "dir", "commit")),
    "the verb after the end of options": (files, ("--", "commit", "a")),
    "half a verb": (files, ("comm", "a")),
    "a verb in capitals": (files, ("Commit", "a")),
    "a pattern that would match a verb": (files, ("c*", "a")),
    "the verb as a path": (files, ("./commit", "a")),
    "a file has the name": (with_file, ("commit", "c")),
    "a file has the name, one word": (with_file, ("commit",)),
    "a file has the name, with others": (with_file, ("commit", "a", "dir")),
    "a file has the name, after a flag": (with_file, ("-v", "commit", "a")),
    "a directory has the name": (with_directory, ("commit", "dir")),
    "a dangling link has the name": (with_dangling_link, ("commit", "elsewhere")),
}


@pytest.mark.parametrize("line", SYSTEM_LINES)
def test_what_the_real_mv_can_do_it_does(bench: Bench, form: str, line: str) -> None:
    build, words = SYSTEM_LINES[line]
    assert_same(bench.run(form, words, build), bench.run("real", words, build))


def assert_same(ours: Outcome, real: Outcome) -> None:
    assert ours.words is None
    assert ours.tree == real.tree
    assert ours.status == real.status
    assert bool(ours.stderr) == bool(real.stderr), ours.stderr
    # The help names the program as it was called, by its path or not.
    assert ours.stdout.replace(REAL_MV, "mv").replace("/bin/mv", "mv") == real.stdout.replace(REAL_MV, "mv")


OURS = {
    "one word": (("log",), ("log",)),
    "a file to commit": (("commit", "a"), ("commit", "a")),
    "quoting": (
        ("commit", "two words", "-m", "line\nline", "*", "", "$HOME", "-x"),
        ("commit", "two words", "-m", "line\nline", "*", "", "$HOME", "-x"),
    ),
    "an alias's flag": (("-i", "commit", "a"), ("commit", "a")),
    "another alias's flags": (("-iv", "log", "--oneline"), ("log", "--oneline")),
    "a directory alone": (("commit", "dir"), ("commit", "dir")),
    "the directory is not last": (("commit", "dir", "missing"), ("commit", "dir", "missing")),
    "nothing else exists": (("checkout", "HEAD", "dir"), ("checkout", "HEAD", "dir")),
    "works anywhere": (("init",), ("init",)),
    "help is ours as a verb": (("help", "commit"), ("help", "commit")),
}


@pytest.mark.parametrize("line", OURS)
def test_what_the_real_mv_must_refuse_is_ours(bench: Bench, form: str, line: str) -> None:
    typed, words = OURS[line]
    untouched = bench.tree(files, vault=True)
    real = bench.run("real", typed, files)
    assert real.status != 0
    assert real.tree == _listing(untouched)
    ours = bench.run(form, typed, files)
    assert (ours.words, ours.status, ours.stderr) == (words, 0, "")
    assert ours.tree == real.tree


@pytest.mark.parametrize(
    "words",
    [
        ("commit", "a", "dir/"),
        ("commit", "a", "b", "dir"),
        ("commit", "missing", "a", "dir"),
        ("-i", "commit", "a", "dir"),
        ("checkout", "HEAD", "a", "dir", "-f"),
        ("commit", "--", "-x", "dir"),
        ("commit", "-t", "dir", "a"),
        ("commit", "a", "--target-directory=dir"),
    ],
)
def test_what_the_real_mv_would_do_by_half_is_refused(bench: Bench, form: str, words: tuple[str, ...]) -> None:
    real = bench.run("real", words, files)
    untouched = _listing(bench.tree(files, vault=True))
    assert real.status != 0
    assert real.tree != untouched
    ours = bench.run(form, words, files)
    assert (ours.status, ours.words, ours.tree) == (2, None, untouched)
    assert "nothing done" in ours.stderr
    assert "MODELVAULT_MV=off" in ours.stderr


@pytest.mark.parametrize("words", [("commit", "a"), ("log",), ("-i", "commit", "a"), ("commit", "a", "dir")])
def test_outside_a_vault_nothing_changes(bench: Bench, form: str, words: tuple[str, ...]) -> None:
    assert_same(bench.run(form, words, files, vault=False), bench.run("real", words, files, vault=False))


def test_some_verbs_need_no_vault(bench: Bench, form: str) -> None:
    assert bench.run(form, ("init",), files, vault=False).words == ("init",)
    assert bench.run(form, ("commit", "a"), files, vault=False).words is None


def test_a_named_vault_counts_as_one(bench: Bench, form: str) -> None:
    env = {"MODELVAULT_DIR": str(bench.place)}
    assert bench.run(form, ("log",), files, vault=False, env=env).words == ("log",)


def test_a_vault_is_found_where_the_directory_really_is(bench: Bench, form: str) -> None:
    """A link into a vault is in it, as it is for modelvault, which asks the system where it stands."""
    outside = bench.place / "outside"

    def linked(work: Path) -> None:
        outside.symlink_to(work)

    # A shell believes PWD if it leads to where it is.
    assert bench.run(form, ("log",), linked, env={"PWD": str(outside)}).words == ("log",)


@pytest.mark.parametrize("env", [{"MODELVAULT_MV": "off"}, {"_MODELVAULT_MV": "modelvault"}])
def test_it_can_be_switched_off(bench: Bench, form: str, env: dict[str, str]) -> None:
    ours = bench.run(form, ("commit", "a"), files, env=env)
    assert_same(ours, bench.run("real", ("commit", "a"), files))
    assert_same(bench.run(form, ("a", "c"), files, env=env), bench.run("real", ("a", "c"), files))


def test_variables_of_the_same_names_do_no_harm(bench: Bench, form: str) -> None:
    env = {"_mv_verb": "log", "_mv_flag": "-i", "_mv_scope": "anywhere", "_mv_path": "/", "verb": "log"}
    assert bench.run(form, ("log", "--oneline"), files, env=env).words == ("log", "--oneline")
    assert_same(bench.run(form, ("a", "c"), files, env=env), bench.run("real", ("a", "c"), files))
    assert_same(
        bench.run(form, ("commit", "a"), files, env=env, vault=False),
        bench.run("real", ("commit", "a"), files, vault=False),
    )


def test_without_modelvault_the_real_mv_fails_and_the_reason_is_said(bench: Bench, form: str) -> None:
    here = (bench.shim.parent,) if form.startswith("shim") else (bench.place / "empty",)
    ours = bench.run(form, ("commit", "a"), files, path=here)
    real = bench.run("real", ("commit", "a"), files)
    assert (ours.status, ours.tree, ours.words) == (real.status, real.tree, None)
    assert "modelvault is not on PATH" in ours.stderr
    assert "commit" in ours.stderr.splitlines()[-1]
    assert_same(bench.run(form, ("a", "dir"), files, path=here), bench.run("real", ("a", "dir"), files))


def test_lines_at_random(bench: Bench, form: str) -> None:
    """Lines from a small vocabulary: the real mv's effect, or none and only where it must fail without any."""
    vocabulary = ["commit", "log", "init", "a", "b", "dir", "missing", "-f", "-i", "-n", "-t", "--", "-m", "-T"]
    chosen = random.Random(form)
    untouched = _listing(bench.tree(files, vault=True))
    seen = {"system": 0, "ours": 0, "refused": 0}
    for _ in range(60):
        words = tuple(chosen.choice(vocabulary) for _ in range(chosen.randint(1, 5)))
        if chosen.random() < 0.5:
            words = (chosen.choice(["commit", "log"]), *words)
        real = bench.run("real", words, files)
        ours = bench.run(form, words, files)
        if ours.words is not None:
            assert (real.status != 0, real.tree, ours.tree) == (True, untouched, untouched), words
            seen["ours"] += 1
        elif "nothing done" in ours.stderr:
            assert (real.status != 0, ours.status, ours.tree) == (True, 2, untouched), words
            seen["refused"] += 1
        else:
            assert (ours.status, ours.tree) == (real.status, real.tree), words
            seen["system"] += 1
    assert min(seen.values()) > 0


# The shim on PATH


def run_on_path(bench: Bench, *directories: Path, words: tuple[str, ...] = ("a", "c")) -> Outcome:
    """Run `mv` as a script would, found on a PATH of these directories and the system's own."""
    work = bench.tree(files, vault=True)
    path = ":".join([*map(str, directories), "/usr/bin", "/bin"])
    variables = {"PATH": path, "RECORD": str(bench.record), "HOME": str(bench.place)}
    mv = shutil.which("mv", path=path)
    assert mv is not None
    done = subprocess.run(
        [mv, *words], cwd=work, env=variables, capture_output=True, text=True, timeout=20, check=False
    )
    called = tuple(bench.record.read_text().split("\0")[:-1]) if bench.record.exists() else None
    return Outcome(done.returncode, done.stdout, done.stderr, _listing(work), called)


def test_two_shims_on_path_do_not_loop(bench: Bench, tmp_path: Path) -> None:
    other = install_shim(tmp_path / "other", VerbTable(("init",), ("log",)))
    outcome = run_on_path(bench, bench.shim.parent, other.parent, bench.shim.parent)
    assert (outcome.status, outcome.stderr) == (0, "")
    assert outcome.tree["c"] == "a"


def test_a_wrapper_that_looks_for_mv_on_path_does_not_loop(bench: Bench, tmp_path: Path) -> None:
    wrapper = tmp_path / "wrapper"
    wrapper.mkdir()
    _program(wrapper / "mv", '#!/bin/sh\necho wrapped >&2\nexec mv "$@"\n')
    outcome = run_on_path(bench, bench.shim.parent, wrapper)
    assert (outcome.status, outcome.stderr, outcome.tree["c"]) == (0, "wrapped\n", "a")


def test_what_is_no_program_is_passed_over(bench: Bench, tmp_path: Path) -> None:
    for name in ("as-directory", "as-text"):
        (tmp_path / name).mkdir()
    (tmp_path / "as-directory" / "mv").mkdir()
    (tmp_path / "as-text" / "mv").write_text("no program")
    odd = tmp_path / "* odd name"
    odd.mkdir()
    outcome = run_on_path(bench, bench.shim.parent, odd, tmp_path / "as-directory", tmp_path / "as-text")
    assert (outcome.status, outcome.stderr, outcome.tree["c"]) == (0, "", "a")


def test_what_modelvault_runs_meets_the_real_mv(bench: Bench) -> None:
    _program(bench.bin / "modelvault", f"#!/bin/sh\n{RECORDER.splitlines()[1]}\nexec mv log renamed\n")
    outcome = run_on_path(bench, bench.shim.parent, bench.bin, words=("log", "--oneline"))
    assert outcome.words == ("log", "--oneline")
    assert outcome.status == 1
    assert "renamed" in outcome.stderr or "log" in outcome.stderr


# The function and its surroundings

DEFINE: dict[Shell, str] = {
    "bash": 'eval "$FUNCTION"',
    "zsh": 'eval "$FUNCTION"',
    "fish": "printf '%s\\n' $FUNCTION | source",
}
NO_FILES: dict[Shell, str] = {"bash": "--norc", "zsh": "-f", "fish": "--no-config"}


def session(bench: Bench, shell: Shell, *steps: str, interactive: bool = True) -> tuple[Path, str, str]:
    """Run the steps in one shell, in a vault, and return where it ran, its stdout, and what modelvault recorded."""
    work = bench.tree(files, vault=True)
    variables = {
        "PATH": f"{bench.bin}:{TOOLS}:/usr/bin:/bin",
        "HOME": str(bench.place),
        "RECORD": str(bench.record),
        "ERRORS": str(bench.errors),
        "FUNCTION": shell_function(shell, VERBS),
    }
    command = [_find(shell), NO_FILES[shell], *(["-i"] if interactive else []), "-c", "; ".join(steps)]
    done = subprocess.run(
        command,
        cwd=work,
        env=variables,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    return work, done.stdout, bench.record.read_text() if bench.record.exists() else ""


@pytest.mark.parametrize(
    ("shell", "alias"),
    [("bash", "mv -i"), ("bash", "mv -iv"), ("zsh", "mv -i"), ("zsh", "mv -iv"), ("zsh", "nocorrect mv")],
)
@pytest.mark.parametrize("alias_first", [True, False])
def test_an_alias_keeps_its_flag_and_loses_no_verb(bench: Bench, shell: Shell, alias: str, alias_first: bool) -> None:
    steps = [f"alias mv='{alias}'", DEFINE[shell]]
    # eval: an alias counts from the next command that is read.
    moves = ["eval 'mv a b'", "eval 'mv commit a'"]
    work, _, recorded = session(bench, shell, *(steps if alias_first else reversed(steps)), *moves)
    asked = alias != "nocorrect mv"
    assert (work / "b").read_text() == ("b" if asked else "a")
    assert recorded == "commit\0a\0"


def test_fish_keeps_an_alias(bench: Bench) -> None:
    alias = "function mv; command mv -i $argv; end"  # what `alias mv='mv -i'` makes
    work, _, recorded = session(bench, "fish", alias, DEFINE["fish"], DEFINE["fish"], "mv a b", "mv commit a")
    assert (work / "b").read_text() == "b"
    assert recorded == "commit\0a\0"


@pytest.mark.parametrize("shell", FUNCTION_SHELLS)
def test_the_function_can_be_defined_twice(bench: Bench, shell: Shell) -> None:
    define = DEFINE[shell].replace("source", 'source 2>>"$ERRORS"').replace('"$FUNCTION"', '"$FUNCTION" 2>>"$ERRORS"')
    work, _, recorded = session(bench, shell, define, define, "mv a b", "mv commit b")
    assert (work / "b").read_text() == "a"
    assert recorded == "commit\0b\0"
    assert bench.errors.read_text() == ""


@pytest.mark.parametrize("shell", FUNCTION_SHELLS)
def test_scripts_never_see_the_function(bench: Bench, shell: Shell) -> None:
    status = "echo $?" if shell != "fish" else "echo $status"
    _, output, recorded = session(bench, shell, DEFINE[shell], "mv commit a", status, interactive=False)
    assert (output, recorded) == ("1\n", "")


@pytest.mark.parametrize("shell", FUNCTION_SHELLS)
def test_the_function_leaves_no_variable_behind(bench: Bench, shell: Shell) -> None:
    show = ["unset FUNCTION", "set"] if shell != "fish" else ["set --erase FUNCTION", "set --names"]
    _, output, recorded = session(bench, shell, DEFINE[shell], "mv commit a", *show)
    assert recorded == "commit\0a\0"
    names = {line.partition("=")[0] for line in output.splitlines() if line[:1] not in " \t"}
    assert "PATH" in names
    assert {name for name in names if name.startswith(("_mv", "_MODELVAULT"))} == set()


@pytest.mark.parametrize(("shell", "check"), [("bash", "-n"), ("zsh", "-n"), ("fish", "--no-execute")])
def test_the_text_parses(shell: Shell, check: str, tmp_path: Path) -> None:
    file = tmp_path / "function"
    file.write_text(shell_function(shell, VERBS))
    subprocess.run([_find(shell), check, file], check=True, capture_output=True)


@pytest.mark.parametrize("shell", SHIM_SHELLS)
def test_the_shim_parses(shell: str, tmp_path: Path) -> None:
    first, *rest = SHIM_SHELLS[shell]
    file = tmp_path / "mv"
    file.write_text(shim_script(VERBS))
    subprocess.run([_find(first), *rest, "-n", file], check=True, capture_output=True)


@pytest.mark.parametrize("text", [shim_script(VERBS), *(shell_function(shell, VERBS) for shell in FUNCTION_SHELLS)])
def test_every_place_in_the_text_is_filled(text: str) -> None:
    assert not [word for word in text.split() if word.startswith("@") and word.endswith("@")]
    assert all(verb in text for verb in VERBS.anywhere + VERBS.in_vault)


@pytest.mark.parametrize("strange", ["", "two words", "a*", "x)", "Commit", "-v", "com;mit"])
def test_a_verb_is_a_word(strange: str) -> None:
    with pytest.raises(ValueError, match="verbs"):
        VerbTable(("init",), ("commit", strange))
    with pytest.raises(ValueError, match="twice"):
        VerbTable(("init",), ("commit", "init"))


def test_a_table_may_have_an_empty_half(tmp_path: Path) -> None:
    for table in (VerbTable(("init",), ()), VerbTable((), ("log",))):
        file = tmp_path / "mv"
        file.write_text(shim_script(table))
        subprocess.run(["sh", "-n", file], check=True)


# Placing and removing


def test_the_shim_is_a_program_and_can_be_renewed(tmp_path: Path) -> None:
    directory = tmp_path / "new" / "bin"
    path = install_shim(directory, VERBS)
    assert path == directory / "mv"
    assert path.stat().st_mode & 0o7777 == 0o755
    assert path.read_text().splitlines()[1] == SHIM_MARKER
    newer = VerbTable(("init",), ("commit", "report"))
    assert install_shim(directory, newer) == path
    assert path.read_text() == shim_script(newer)
    assert list(directory.iterdir()) == [path]
    assert uninstall_shim(directory) == path
    assert not list(directory.iterdir())


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("what", ["program", "empty file", "directory", "link", "dangling link", "marker elsewhere"])
def test_a_file_that_is_not_ours_stays(tmp_path: Path, what: str, force: bool) -> None:
    directory = tmp_path / "bin"
    directory.mkdir()
    place = directory / "mv"
    shim = install_shim(tmp_path / "other", VERBS)
    if what == "program":
        shutil.copy(REAL_MV, place)
    elif what == "empty file":
        place.touch()
    elif what == "directory":
        place.mkdir()
    elif what == "link":
        place.symlink_to(shim)
    elif what == "dangling link":
        place.symlink_to("nowhere")
    else:
        place.write_text(f"#!/bin/sh\n:\n{SHIM_MARKER}\n")
    before = _state(place)
    with pytest.raises(InputError, match="not ModelVault's"):
        install_shim(directory, VERBS, force=force)
    with pytest.raises(InputError, match="not ModelVault's"):
        uninstall_shim(directory)
    assert _state(place) == before
    assert list(directory.iterdir()) == [place]


def _state(place: Path) -> tuple[int, int, bytes]:
    """Return what tells whether `place` was touched: inode, time of change, content."""
    status = place.lstat()
    return status.st_ino, status.st_ctime_ns, place.read_bytes() if place.is_file() else b""


def test_a_directory_of_the_system_needs_force(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="belongs to the system"):
        install_shim(Path("/usr/bin"), VERBS)
    link = tmp_path / "bin"
    link.symlink_to("/usr/bin")
    with pytest.raises(InputError, match="belongs to the system"):
        install_shim(link, VERBS)
    # Force reaches as far as a directory that looks like the system's; the one that is has an mv, which stays.
    system = tmp_path / "sbin"
    system.mkdir()
    monkeypatch.setattr("modelvault.cli.mv_name._SYSTEM_DIRECTORIES", (str(system),))
    with pytest.raises(InputError, match="belongs to the system"):
        install_shim(system, VERBS)
    assert install_shim(system, VERBS, force=True).exists()


def test_what_cannot_be_written_is_an_error_of_ours(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot write"):
        install_shim(tmp_path / "file" / "bin", VERBS)
    with pytest.raises(InputError, match="no shim"):
        uninstall_shim(tmp_path)


def test_the_default_is_the_users_own_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/somewhere")
    assert default_directory() == Path("/somewhere/.local/bin")


def test_the_verbs_are_the_commands() -> None:
    table = VerbTable(anywhere=verbs(anywhere=True), in_vault=verbs(anywhere=False))
    assert list(table.anywhere) == sorted(table.anywhere)
    assert list(table.in_vault) == sorted(table.in_vault)
    assert {"init", "help"} <= set(table.anywhere)
    assert {"commit", "checkout", "log"} <= set(table.in_vault)
