"""Does every command do what it says, in print and as JSON?"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

import numpy as np
import pytest

from modelvault.cli.commands import COMMANDS
from tests.repository.networks import Run, noise, torch_file

from .conftest import Cli, spawn

COMMIT_FIELDS = {
    "schema", "id", "short", "parents", "refs", "author", "time", "offset_minutes", "subject", "message", "step",
    "metrics", "meta", "files", "mode", "raw_bytes", "added_bytes", "keyframes", "deltas", "depth", "forgotten",
}  # fmt: skip
REPORT_FIELDS = {
    "schema", "commits", "raw_bytes", "stored_bytes", "overhead_bytes", "ratio", "mode", "keyframes", "deltas",
    "depth", "layers", "disk_bytes", "forgotten", "reclaimable_bytes",
}  # fmt: skip


def matches(pattern: str, text: str) -> None:
    assert re.fullmatch(pattern, text), f"{text!r} is not {pattern!r}"


def test_init(cli: Cli) -> None:
    matches(r"initialised an empty vault in new/\.modelvault \(lossless\)\n", cli.ok("init", "new"))
    found = cli.json("init", "other")
    assert set(found) == {"schema", "vault"}
    assert found["vault"] == str(cli.root / "other" / ".modelvault")
    assert "there is a vault already" in cli.fails(1, "init")


def test_commit(cli: Cli) -> None:
    cli.write("model.pt", Run({"w": 30_000}).file())
    matches(
        r"\[main [0-9a-f]{8}\] epoch 1  \+\d+\.\d KB \(120\.\d KB raw, 1\.\d\dx, lossless\)  depth 0\n",
        cli.ok("commit", "model.pt", "-m", "epoch 1"),
    )
    again = cli("commit", "model.pt", "-m", "epoch 1")
    assert again.code == 0
    assert again.err == "modelvault: every file is as in the parent; the commit was made all the same\n"


def test_commit_as_json(cli: Cli) -> None:
    cli.write("model.pt", b"weights")
    found = cli.json(
        "commit", "model.pt", "-m", "epoch 1\n\nmore", "--tag", "v1", "--step", "-3",
        "--metric", "acc=0.5", "--metric", "loss=nan", "--meta", "gpu=a=b",
    )  # fmt: skip
    assert set(found) == COMMIT_FIELDS | {"branch", "opened_branch", "unchanged"}
    assert found["schema"] == "modelvault.commit/1"
    assert (found["subject"], found["message"]) == ("epoch 1", "epoch 1\n\nmore")
    assert (found["step"], found["metrics"], found["meta"]) == (-3, {"acc": 0.5, "loss": None}, {"gpu": "a=b"})
    assert found["refs"] == ["HEAD -> main", "tag: v1"]
    assert found["files"][0]["sha256"] == hashlib.sha256(b"weights").hexdigest()
    assert found["raw_bytes"] == 7
    assert (found["branch"], found["opened_branch"], found["unchanged"]) == ("main", False, False)


def test_the_hint_that_little_was_gained(cli: Cli) -> None:
    """Said of deltas that save next to nothing, and of nothing else: a first commit has no parent to blame."""
    generator = np.random.default_rng(3)
    weights = generator.integers(0, 1 << 31, 300_000, dtype=np.uint32)
    said = []
    for _ in range(3):
        cli.write("model.pt", torch_file({"w": weights.view(np.float32)}))
        said.append(cli("commit", "model.pt", "-m", "an epoch").err)
        weights = weights ^ generator.integers(0, 1 << 27, 300_000, dtype=np.uint32)
    assert said[0] == ""
    assert all(text.startswith("modelvault: little gained") for text in said[1:])


def test_log(cli: Cli) -> None:
    assert cli.ok("log") == ""
    first, second = cli.commit("one"), cli.commit("two", None, "--step", "5", "--metric", "acc=0.25")
    assert cli.ok("log", "--oneline") == (
        f"{second[:8]} (HEAD -> main) two  step 5  acc 0.25  {cost(cli, second)}\n{first[:8]} one  {cost(cli, first)}\n"
    )
    text = cli.ok("log")
    matches(
        rf"commit {second} \(HEAD -> main\)\nAuthor: Ada <ada@example\.org>\nDate:   .*\nStep:   5\nMetric: acc 0\.25\n"
        rf"File:   model\.pt  3 B\nCost:   .* lossless  depth 0\n\n    two\n\ncommit {first}\n(.*\n)+\n    one\n",
        text,
    )
    assert cli.ok("log", "-n", "1", "--oneline").startswith(second[:8])
    assert cli.ok("log", "-n1", "--oneline").count("\n") == 1
    assert cli.ok("log", "--oneline", f"{first}..").count("\n") == 1
    assert cli.ok("log", "HEAD..HEAD") == ""


def cost(cli: Cli, commit_id: str) -> str:
    line = next(line for line in cli.ok("log", commit_id).splitlines() if line.startswith("Cost:"))
    return line.removeprefix("Cost:   ")


def test_log_as_json(cli: Cli) -> None:
    assert cli.json("log") == {"schema": "modelvault.log/1", "commits": []}
    first, second = cli.commit("one"), cli.commit("two")
    found = cli.json("log")
    assert [commit["id"] for commit in found["commits"]] == [second, first]
    assert all(set(commit) == COMMIT_FIELDS - {"schema"} for commit in found["commits"])
    assert found["commits"][0]["parents"] == [first]
    assert len(cli.json("log", "-n", "1")["commits"]) == 1


def test_control_characters_of_a_message_stay_in_their_line(cli: Cli) -> None:
    cli.commit("an \x1b[31m evil\x07 subject", None, "--meta", "note=a\nb")
    for words in (("log",), ("log", "--oneline"), ("show",), ("status",), ("log", "--graph")):
        text = cli.ok(*words)
        assert "\x1b" not in text and "\x07" not in text
        assert "\\x1b[31m evil\\x07 subject" in text


def test_show(cli: Cli) -> None:
    run = Run({"w": 30_000, "b": 10_000})
    cli.commit("one", run.file())
    run.train()
    second = cli.commit("two", run.file())
    matches(
        rf"commit {second} \(HEAD -> main\)\nParent: [0-9a-f]{{8}}\nAuthor: Ada <ada@example\.org>\nDate:   .*\n"
        r"Kept:   lossless, .* added for .* raw \(\d+\.\d\dx\), 0 keyframes, 2 deltas, depth 1\n\n    two\n\n"
        r"model\.pt  16\d\.\d KB  sha256 [0-9a-f]{64}\n"
        r"  torch-zip: 9\d\.\d% of the bytes understood as tensors, 2 ranges in 2 stored tensors, depth 1\n",
        cli.ok("show"),
    )
    found = cli.json("show", "HEAD~1")
    assert set(found) == COMMIT_FIELDS
    assert set(found["files"][0]) == {
        "path", "size", "executable", "sha256", "format", "understood_share", "ranges", "tensors", "stored_bytes",
        "depth",
    }  # fmt: skip


def test_show_with_cost_names_the_chain(cli: Cli) -> None:
    run = Run({"w": 30_000})
    made = [cli.commit(f"epoch {n}", data) for n, data in enumerate(run.epochs(3))]
    cost = cli.json("show", "--cost")["cost"]
    assert set(cost) == {"read_bytes", "decoded_bytes", "work", "seconds", "depth", "chain"}
    assert [link["commit"] for link in cost["chain"]] == made[::-1]
    assert [link["depth"] for link in cost["chain"]] == [2, 1, 0]
    assert cost["decoded_bytes"] == 3 * 120_000
    assert cost["work"] == cost["read_bytes"] + cost["decoded_bytes"]
    assert "cost" not in cli.json("show")
    *_, said, head, newest, _, oldest = cli.ok("show", "--cost").splitlines()
    matches(r"Restoring it reads \d+\.\d KB, decodes 360\.0 KB and takes about \S+ s; depth 2", said)
    assert head.split() == ["tensors", "read", "decoded", "depth", "of", "commit"]
    assert newest.endswith("epoch 2") and oldest.endswith("epoch 0")
    assert cli.json("show", made[0], "--cost")["cost"]["chain"] == cost["chain"][2:]


def test_status(cli: Cli) -> None:
    assert cli.ok("status") == "on branch main, no commits yet\n"
    assert cli.json("status") == {
        "schema": "modelvault.status/1",
        "branch": "main",
        "detached": False,
        "head": None,
        "clean": True,
        "files": [],
    }
    commit_id = cli.commit("one")
    assert cli.ok("status") == f"on branch main, at {commit_id[:8]} one\nall files are as committed\n"
    cli.write("model.pt", b"two")
    assert "  changed: model.pt\n" in cli.ok("status")
    (cli.root / "model.pt").unlink()
    assert "  missing: model.pt\n" in cli.ok("status")
    found = cli.json("status")
    assert (found["clean"], found["files"]) == (False, [{"path": "model.pt", "state": "missing"}])


def test_tag(cli: Cli) -> None:
    assert cli.ok("tag") == ""
    assert cli.json("tag") == {"schema": "modelvault.tags/1", "tags": [], "current": None}
    first, second = cli.commit("one"), cli.commit("two")
    assert cli.ok("tag", "best", "HEAD~1") == f"tag best is at {first[:8]}\n"
    assert "exists already" in cli.fails(2, "tag", "best")
    assert cli.ok("tag", "best", "--force") == f"tag best is at {second[:8]}\n"
    assert cli.ok("tag") == f"best  {second[:8]}  two\n"
    assert cli.json("tag", "v1") == {"schema": "modelvault.tag/1", "name": "v1", "id": second}
    assert cli.ok("tag", "-d", "best") == f"deleted tag best (was {second[:8]})\n"
    assert "there is no tag best" in cli.fails(2, "tag", "-d", "best")


def test_branch_and_switch(cli: Cli) -> None:
    assert cli.json("branch") == {"schema": "modelvault.branches/1", "branches": [], "current": "main"}
    first = cli.commit("one")
    assert cli.ok("branch", "trial") == f"branch trial is at {first[:8]}\n"
    assert cli.ok("branch") == f"*  main   {first[:8]}  one\n   trial  {first[:8]}  one\n"
    assert cli.ok("switch", "trial") == "on branch trial\n"
    second = cli.commit("two")
    found = cli.json("branch")
    assert found["current"] == "trial"
    assert found["branches"] == [{"name": "main", "id": first}, {"name": "trial", "id": second}]
    assert "HEAD is on branch trial" in cli.fails(2, "branch", "-d", "trial")
    assert cli.json("switch", "main") == {"schema": "modelvault.switch/1", "branch": "main", "head": first}
    assert "no other branch" in cli.fails(16, "branch", "-d", "trial")
    assert cli.ok("branch", "-d", "-f", "trial") == f"deleted branch trial (was {second[:8]})\n"
    assert "there is no branch trial" in cli.fails(2, "switch", "trial")
    assert cli.ok("switch", "-c", "trial") == "on branch trial\n"
    assert "exists already" in cli.fails(2, "switch", "-c", "trial")


def test_switching_leaves_files_alone(cli: Cli) -> None:
    cli.commit("one")
    cli.ok("switch", "-c", "trial")
    cli.write("model.pt", b"uncommitted")
    cli.ok("switch", "main")
    assert (cli.root / "model.pt").read_bytes() == b"uncommitted"


def test_report(cli: Cli) -> None:
    found = cli.json("report")
    assert set(found) == REPORT_FIELDS
    assert (found["schema"], found["commits"], found["ratio"]) == ("modelvault.report/1", 0, None)
    assert cli.ok("report").startswith("no commits yet\n")
    run = Run({"w": 30_000})
    for data in run.epochs(3):
        cli.commit("an epoch", data)
    found = cli.json("report")
    assert (found["commits"], found["keyframes"], found["deltas"]) == (3, 1, 2)
    assert found["depth"] == {"mean": 1.0, "max": 2}
    assert found["ratio"] == pytest.approx(found["raw_bytes"] / found["stored_bytes"])
    assert found["mode"] == "lossless"
    assert found["disk_bytes"] > found["stored_bytes"]
    assert [layer["depth"] for layer in found["layers"]] == [0, 1, 2]
    assert sum(layer["raw_bytes"] for layer in found["layers"]) == 3 * 120_000
    text, drawn = cli.ok("report").split("\n\n")
    longest = max(layer["stored_bytes"] for layer in found["layers"])
    for line, layer in zip(drawn.splitlines()[1:], found["layers"], strict=True):
        assert line.split()[:2] == [str(layer["depth"]), "1"]
        assert line.count("#") == -(-40 * layer["stored_bytes"] // longest)
    matches(r"ratio +\d\.\d\dx lossless", next(line for line in text.splitlines() if line.startswith("ratio")))
    assert [line.split()[0] for line in text.splitlines()] == [
        "commits", "raw", "stored", "ratio", "keyframes", "deltas", "depth", "on", "reclaimable",
    ]  # fmt: skip


def test_fsck(cli: Cli) -> None:
    assert cli.ok("fsck") == "checked 0 commits, 0 files, 0 tensors, 0 B decoded: all good\n"
    cli.commit("one", noise(400_000))
    assert cli.ok("fsck") == "checked 1 commits, 1 files, 1 tensors, 400.0 KB decoded: all good\n"
    assert cli.ok("fsck", "--quick") == "checked 1 commits, 1 files, 1 tensors, no tensor decoded: all good\n"
    assert cli.json("fsck") == {
        "schema": "modelvault.fsck/1",
        "commits": 1,
        "files": 1,
        "tensors": 1,
        "bytes_decoded": 400_000,
        "quick": False,
        "problems": [],
    }


def test_version_and_help(cli: Cli) -> None:
    matches(r"modelvault \d+\.\d+\.\d+ \(format 1\)\n", cli.ok("version"))
    assert set(cli.json("version")) == {"schema", "version", "format"}
    for words in (("--help",), ("-h",), ("help",)):
        text = cli.ok(*words)
        for verb in COMMANDS:
            assert verb in text
    for verb in COMMANDS:
        assert "Usage: modelvault" in cli.ok("help", verb)
        assert "Usage: modelvault" in cli.ok(verb, "--help")


def test_version_as_an_option(cli: Cli) -> None:
    matches(r"modelvault \d+\.\d+\.\d+\n", cli.ok("--version"))


@pytest.mark.parametrize(
    "words", [("log",), ("status",), ("report",), ("tag",), ("branch",), ("reflog",), ("config",), ("fsck",)], ids=str
)
def test_json_of_an_empty_vault_through_a_pipe(cli: Cli, words: tuple[str, ...]) -> None:
    done = spawn(cli.root, *words, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    loaded: dict[str, Any] = json.loads(done.stdout)
    assert loaded["schema"].startswith("modelvault.")
    assert done.stdout.count("\n") == 1


def test_another_directory_is_worked_in(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    commit_id = cli.commit("one")
    (cli.root / "deep").mkdir()
    monkeypatch.chdir(cli.root / "deep")
    assert cli.ok("log", "--oneline").startswith(commit_id[:8])
    monkeypatch.chdir("/")
    assert cli.ok("-C", str(cli.root / "deep"), "log", "--oneline").startswith(commit_id[:8])
    monkeypatch.chdir("/")
    monkeypatch.setenv("MODELVAULT_DIR", str(cli.root))
    assert cli.ok("log", "--oneline").startswith(commit_id[:8])


def test_the_author_comes_from_the_environment_then_the_configuration(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    (cli.root / ".modelvault" / "config.yaml").write_text("author: Grace <grace@example.org>\n")
    cli.commit("one")
    assert cli.json("show")["author"] == "Ada <ada@example.org>"
    monkeypatch.delenv("MODELVAULT_AUTHOR")
    cli.commit("two")
    assert cli.json("show")["author"] == "Grace <grace@example.org>"


WITH_JSON: dict[str, tuple[str, ...]] = {
    "init": ("other",), "commit": ("model.pt", "-m", "epoch 1"), "checkout": ("HEAD", "-o", "back.pt"), "log": (),
    "show": (), "diff": ("HEAD~1", "HEAD"), "ls": (), "cat": ("HEAD:a b",),
    "bisect": ("HEAD~2", "HEAD~1", "--metric", "acc>=0.9"), "identify": ("model.pt",), "status": (),
    "tag": (), "branch": (), "switch": ("trial",), "reflog": (), "undo": (), "report": ("--by", "tensor"), "plan": (),
    "repack": (), "gc": (),
    "bundle": ("HEAD~1..HEAD", "-o", "one.bundle"), "unbundle": ("one.bundle",),
    "forget": ("HEAD~1",), "config": (), "fsck": (), "doctor": (), "completion": ("revisions",),
    "shell-init": ("bash",), "install-shim": ("--dir", "bin"), "uninstall-shim": ("--dir", "bin"), "version": (),
    "help": ("revisions",),
}  # fmt: skip
"""A line of each verb that says something about two commits, in an order in which each can do it."""

PLURAL = {"tag": "tags", "branch": "branches"}
"""Schemas of lists."""


def test_every_verb_prints_one_object_with_a_schema(cli: Cli) -> None:
    assert WITH_JSON.keys() == COMMANDS.keys()
    for epoch in (1, 2):
        cli.commit(f"epoch {epoch}", Run({"a b": 30_000}, seed=epoch).file(), "--metric", f"acc={1 - epoch / 16}")
    cli.ok("branch", "trial")
    (cli.root / "bin").mkdir()
    for verb, words in WITH_JSON.items():
        said = spawn(cli.root, verb, *words, "--json")
        assert said.returncode == 0, said.stderr
        assert said.stdout.count("\n") == 1, verb
        schema = json.loads(said.stdout)["schema"]
        assert schema == f"modelvault.{PLURAL.get(verb, verb)}/1"


@pytest.mark.parametrize("verb", ["log", "status", "report", "tag", "branch", "reflog", "gc", "config", "fsck"])
def test_an_empty_vault_is_no_error(cli: Cli, verb: str) -> None:
    cli.ok(verb)
    assert cli.json(verb)["schema"] == f"modelvault.{PLURAL.get(verb, verb)}/1"


def test_help_and_scripts_are_the_same_as_json(cli: Cli) -> None:
    for words in (["help"], ["help", "diff"], ["help", "revisions"]):
        found = cli.json(*words)
        assert found["text"].rstrip("\n") + "\n" == cli.ok(*words)
        assert found["verbs"] == list(COMMANDS)
    assert cli.ok("help", "diff") == cli.ok("diff", "--help")
    for verb in ("completion", "shell-init"):
        for shell in ("bash", "zsh", "fish"):
            assert cli.json(verb, shell)["script"].rstrip("\n") + "\n" == cli.ok(verb, shell)
    cli.commit("epoch 1")
    assert cli.json("completion", "revisions")["revisions"] == cli.ok("completion", "revisions").splitlines()


ODD_PATHS = [
    "a b.pt",
    "\u00fcn\u00efcode \u91cd.pt",
    "-dash.pt",
    "--json",
    ".hidden",
    "quote'\".pt",
    "a:b.pt",
    "\u202egnp.pt",
    "%s.pt",
]
ODD_TENSORS = [
    "../x",
    "/etc/passwd",
    "a\nb",
    "\x1b[31mred",
    "\u043a\u043b\u044e\u0447 \u91cd",
    "a:b",
    "..",
    " ",
    "HEAD:x",
    "x" * 100,
]


def test_odd_names(cli: Cli) -> None:
    data = torch_file({name: np.full(20_000 + n, n, "<f4") for n, name in enumerate(ODD_TENSORS)})
    for name in ODD_PATHS:
        cli.write(name, data)
    cli.ok("commit", "-m", "odd \x1b[31m", "--meta", "k=\x07", "--tag", "\u91cd", "--", *ODD_PATHS)
    found = cli.json("ls", "HEAD")["files"]
    assert sorted(file["path"] for file in found) == sorted(ODD_PATHS)
    for file in found:
        assert [tensor["name"] for tensor in file["tensors"]] == ODD_TENSORS
    for n, name in enumerate(ODD_TENSORS):
        assert cli.json("cat", f"HEAD:{ODD_PATHS[0]}:{name}", "--format", "json")["values"][:2] == [n, n]
    cli.write("a b.pt", torch_file({name: np.full(20_000, 9, "<f4") for name in ODD_TENSORS}))
    cli.ok("commit", "a b.pt", "-m", "one again")
    lines = [
        ["log"], ["log", "--oneline"], ["log", "--stat"], ["show", "\u91cd"], ["ls", "\u91cd"], ["status"], ["reflog"],
        ["diff", "\u91cd", "HEAD"], ["report", "--by", "tensor"], ["identify", "a b.pt"],
        ["checkout", "\u91cd", "-o", "out \x07/"], ["forget", "-n", "\u91cd"], ["completion", "revisions"],
        ["tag"], ["gc", "-n"],
    ]  # fmt: skip
    for words in lines:
        printed = cli.ok(*words)
        assert all(line.isprintable() for line in printed.splitlines()), words
    for name in ODD_PATHS:
        assert (cli.root / "out \x07" / name).stat().st_size == len(data)
