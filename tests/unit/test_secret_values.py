"""What is taken for a secret and what is not, in recipes, in texts and in output in pieces."""

from __future__ import annotations

import json
import logging

import pytest

from ptl_plugins.errors import PTLError
from ptl_plugins.redacted_stream import MOST_HELD, RedactedStream
from ptl_plugins.secret_values import (
    RedactingFormatter,
    environment_secrets,
    redacted,
    redacted_tree,
    secret_problems,
)

TOKEN = "abcdefgh12345678"


@pytest.fixture
def token(monkeypatch):
    monkeypatch.setenv("SERVICE_TOKEN", TOKEN)
    return TOKEN


@pytest.mark.parametrize(
    "name",
    ["HF_TOKEN", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID", "DB_PASSWORD",
     "SECRET", "github_pat", "CLIENT_SECRET", "X_CREDENTIALS", "PGPASSWORD", "MYSQL_PWD", "DB_PASS",
     "SSHPASS", "OPENAI_APIKEY", "HF_TOKENS", "HF_TOKEN_READ", "SECRET_KEY_BASE", "REDIS_AUTH",
     "GOOGLE_CREDENTIALS_JSON", "PRIVATE_KEY_PEM", "SLACK_WEBHOOK_URL"],
)  # fmt: skip
def test_variables_that_hold_secrets(monkeypatch, name):
    monkeypatch.setenv(name, TOKEN)
    assert redacted(f"it is {TOKEN}.") == "it is [redacted]."


@pytest.mark.parametrize(
    ("name", "value"),
    [("TOKENIZERS_PARALLELISM", "disabled"), ("HF_TOKEN_PATH", TOKEN), ("KEYBOARD", TOKEN),
     ("MONKEY", TOKEN), ("HF_TOKEN", "short"), ("PWD", "not/there"), ("TOKEN_FILE", TOKEN),
     ("SIGNING_KEY", "/usr/bin"), ("PATH_TO", TOKEN)],
)  # fmt: skip
def test_variables_that_do_not(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    assert value not in environment_secrets()


@pytest.mark.timeout(60)
@pytest.mark.parametrize("word", ["a", "x://", "x://a:a:", "sk-aA", "hf_a", "://"])
def test_a_long_text_takes_as_long_as_it_is(word):
    """Looking ahead from every place of a megabyte without an end would take an hour."""
    text = word * (2**20 // len(word))
    assert len(redacted(text)) <= 3 * len(text)


def test_a_secret_is_found_as_programs_quote_it(monkeypatch):
    secret = 'abcdefgh"ij\\kl'
    monkeypatch.setenv("X_TOKEN", secret)
    assert redacted(json.dumps({"a": secret})) == '{"a": "[redacted]"}'
    assert redacted(repr({"a": secret})) == "{'a': '[redacted]'}"


def test_a_secret_within_a_longer_one_leaves_no_rest(monkeypatch):
    monkeypatch.setenv("A_TOKEN", "12345678")
    monkeypatch.setenv("B_TOKEN", "12345678-and-more")
    assert redacted("12345678-and-more, 12345678") == "[redacted], [redacted]"


@pytest.mark.parametrize(
    "text",
    ["https://me:word@host/x", "redis://:word@host:6379", "see HTTP+x://a:b@c.",
     "hf_" + "aB1" * 10, "sk-proj-" + "a_B-1" * 8, "ghp_" + "a1" * 18, "AKIA" + "A1" * 8],
)  # fmt: skip
def test_secrets_that_their_form_tells(text):
    assert "[redacted]" in redacted(text)
    assert len(secret_problems({"note": text})) == 1


@pytest.mark.parametrize(
    "text",
    ["https://host:8080/a@b", "https://me@host", "owner/name:config", "{q}://{a}:{b}@{c}",
     "s3://bucket/a:b@c", "https://${oc.env:A}:${oc.env:B}@host", "hf_hub_download", "sk-learn",
     "<think>", "a: b@c", "saves/multi-task-continual-pretraining-v2",
     "sk-learn-notebooks-and-more",
     "/mnt/disk-Persistent-Storage-01/llama", "data/mask-language-modelling-corpus.jsonl"],
)  # fmt: skip
def test_texts_that_are_none(text):
    assert redacted(text) == text
    assert secret_problems({"note": text}) == []


@pytest.mark.parametrize(
    "key",
    ["hf_hub_token", "hub_token", "push_to_hub_token", "token", "api_key", "wandb_api_key",
     "password", "client.secret", "aws_secret_access_key", "db-password"],
)  # fmt: skip
def test_keys_of_secrets(key):
    (line,) = secret_problems({"recover": [{key: "x"}]})
    assert line.startswith(f"recover.0.{key}: is a secret; ")
    assert "'x'" not in line


@pytest.mark.parametrize(
    "keys",
    [{"pad_token": "<pad>"}, {"eos_token": "</s>"}, {"tokens": "equal"}, {"add_tokens": "a,b"},
     {"use_auth_token": True}, {"token": None}, {"hub_token": ""}, {"max_new_tokens": 5},
     {"image_token": "<image>"}, {"key": "value"}, {"sort_key": "x"}],
)  # fmt: skip
def test_keys_that_only_sound_like_it(keys):
    assert secret_problems(keys) == []


def test_the_values_of_variables_are_found_in_recipes(token):
    assert secret_problems({"a": token})[0].startswith("a: holds the value of a variable")
    assert secret_problems({"a": [f"--key={token}"]})[0].startswith("a.0: holds the value")


def test_a_short_value_of_a_variable_may_be_part_of_a_word(monkeypatch):
    monkeypatch.setenv("X_TOKEN", "original")
    assert secret_problems({"a": "original"}) != []
    assert secret_problems({"a": "the originals"}) == []


def test_trees_errors_and_log_lines_are_redacted(token):
    assert redacted_tree({token: [1, (token,), None]}) == {"[redacted]": [1, ["[redacted]"], None]}
    assert str(PTLError(f"the hub said: {token}")) == "the hub said: [redacted]"
    try:
        raise ValueError(token)
    except ValueError as error:
        facts = (type(error), error, error.__traceback__)
        record = logging.LogRecord("x", 1, "x", 1, "failed %s", (token,), facts)
    line = RedactingFormatter("%(message)s").format(record)
    assert token not in line
    assert line.endswith("ValueError: [redacted]")


@pytest.mark.parametrize("size", [1, 3, 7, 1000])
def test_a_secret_in_pieces_is_found(token, monkeypatch, size):
    monkeypatch.setenv("X_PASSPHRASE", "more than one word")
    data = f"a {token} b\r{token}c more than one word more than on\xff {token}".encode("latin-1")
    stream = RedactedStream()
    pieces = [stream.feed(data[i : i + size]) for i in range(0, len(data), size)]
    shown = b"".join([*pieces, stream.rest()])
    assert shown == (b"a [redacted] b\r[redacted]c [redacted] more than on\xff [redacted]")


def test_whole_words_are_shown_at_once_and_endless_ones_in_time():
    stream = RedactedStream()
    assert stream.feed(b"step 1\n") == b"step 1\n"
    assert stream.feed(b"x" * (2 * MOST_HELD)) == b"x" * (2 * MOST_HELD)
    assert stream.feed(b"50%") == b""
    assert stream.rest() == b"50%"
