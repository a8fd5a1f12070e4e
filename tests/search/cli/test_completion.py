"""`completion` prints a script by which a shell completes the commands and options that there are."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from eintune.search.cli import completion
from eintune.search.cli.main import COMMANDS, main

TRIED = {
    "eintune": "tune",
    "eintune cache": "verify",
    "eintune tune --kv": "--kv-heads",
    "eintune bench --head": "--head-dim",
    "eintune tune --dtype b": "bf16",
}
"""What is typed, and one of the words that may follow or end it."""


@pytest.mark.parametrize("shell", completion.SHELLS)
def test_a_script_has_every_command(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("shtab")
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert all(command.name in script for command in COMMANDS) and "kv-heads" in script


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash here")
def test_bash_completes_with_it(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("shtab")
    assert main(["completion", "bash"]) == 0
    lines = [capsys.readouterr().out]
    for typed in TRIED:
        *words, last = [*typed.split(), *([""] if " --" not in typed else [])]
        given = " ".join(f"'{w}'" for w in (*words, last))
        lines.append(f"COMPREPLY=(); COMP_WORDS=({given}); COMP_CWORD={len(words)}")
        lines.append(f"_shtab_eintune eintune '{last}' '{words[-1]}'; echo \"${{COMPREPLY[@]}}\"")
    done = subprocess.run(["bash", "-c", "\n".join(lines)], capture_output=True, text=True, timeout=60)
    found = [line.split() for line in done.stdout.splitlines()]
    assert done.returncode == 0 and len(found) == len(TRIED), done.stderr
    assert [want for want, words in zip(TRIED.values(), found, strict=True) if want not in words] == []


def test_without_what_makes_it_one_line_says_so(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(completion, "find_spec", lambda name: None)
    assert main(["completion", "bash"]) == 1
    out, err = capsys.readouterr()
    assert not out and "shtab, which is not installed: pip install 'eintune[completion]'" in err
    assert main(["completion", "fish"]) == 2 and "invalid choice: 'fish'" in capsys.readouterr().err
