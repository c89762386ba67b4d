"""No key lies in the repository: detect-secrets over what git tracks, offline, without its guesses by entropy."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[1]
SCAN = (sys.executable, "-m", "detect_secrets", "scan", "--no-verify")
GUESSES = ("--disable-plugin", "HexHighEntropyString", "--disable-plugin", "Base64HighEntropyString")  # digests are everywhere
KNOWN = {  # each was looked at: an example, or bait for a test
    ("docs/alerts.md", "Basic Auth Credentials"): 1,
    ("tests/test_client.py", "Basic Auth Credentials"): 1,
    ("tests/test_config.py", "Basic Auth Credentials"): 1,
    ("tests/test_config.py", "Secret Keyword"): 1,
    ("tests/test_observe.py", "Secret Keyword"): 1,
    ("tests/test_redact.py", "AWS Access Key"): 1,
    ("tests/test_redact.py", "Private Key"): 1,
    ("tests/test_security_keys.py", "Secret Keyword"): 1,
    ("tests/test_warehouse_query.py", "Secret Keyword"): 1,
}


def found(folder: Path, *which: str) -> Counter[tuple[str, str]]:
    """How many secrets of each kind each file seems to hold."""
    done = subprocess.run([*SCAN, *GUESSES, *which], cwd=folder, capture_output=True, text=True, check=True)
    return Counter((file, secret["type"]) for file, secrets in json.loads(done.stdout)["results"].items() for secret in secrets)


def test_the_repository_holds_no_secret_that_nobody_looked_at() -> None:
    assert dict(found(ROOT) - Counter(KNOWN)) == {}


def test_a_secret_would_be_found(tmp_path: Path) -> None:
    key = "ghp_" + "a1B2c3D4e5F6" * 3
    (tmp_path / "notes.md").write_text(f"use {key}\n")
    (tmp_path / "settings.yaml").write_text("api_key: " + "s3cr3t-" * 3 + "\n")
    assert {file for file, _ in found(tmp_path, "--all-files", ".")} == {"notes.md", "settings.yaml"}
