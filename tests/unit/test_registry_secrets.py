"""No password of an address is shown, however its reader finds it there, and ordinary addresses stay as they are."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy.engine import make_url

from gen_dist.registry.secrets import passwords, without_secrets


@pytest.mark.parametrize(
    ("seen", "kept"),
    [
        ("https://ann:hunter2@example.org/x?y=a@b", "https://***@example.org/x?y=a@b"),
        ("postgresql://ann:p@ss@db:5432/mlflow", "postgresql://***@db:5432/mlflow"),
        ("http://ann:hun/ter2@h:5000/x", "http://***@h:5000/x"),
        ("http://ann:12345@h/x", "http://***@h/x"),
        ("redis://:hunter2@h", "redis://***@h"),
        (
            "cannot reach 'http://token@h/api' twice http://token@h",
            "cannot reach 'http://***@h/api' twice http://***@h",
        ),
        ("https://h/x?X-Amz-Signature=abc&part=1", "https://h/x?X-Amz-Signature=***&part=1"),
        ("https://h/x?sv=1&sig=abc%3D", "https://h/x?sv=1&sig=***"),
        ({"a": ["http://u:p@h"], "b": 1}, {"a": ["http://***@h"], "b": 1}),
    ],
)
def test_addresses_lose_their_user_and_password(seen: Any, kept: Any) -> None:
    assert without_secrets(seen) == kept
    assert without_secrets(kept) == kept


@pytest.mark.parametrize("driver", ["postgresql", "mysql+pymysql"])
@pytest.mark.parametrize(
    "password", ["hunter2", "Zk3/9+aQ==", "pa#ss", "pa?ss", "12345/x", "a:b/c", "/", "p'w", 'p"w', "#?/:"]
)
def test_no_password_is_left_that_sqlalchemy_finds(driver: str, password: str) -> None:
    for address in (f"{driver}://mlflow:{password}@db:5432/mlflow", f"{driver}://mlflow:{password}@db/mlflow?a=b"):
        assert make_url(address).password == password
        assert without_secrets(address).startswith(f"{driver}://***@db")
        assert list(passwords(address)) == [password]


@pytest.mark.parametrize("key", ["password", "passwd", "sslpassword", "Password"])
def test_no_password_is_left_in_the_query_of_an_address(key: str) -> None:
    address = f"postgresql://db/mlflow?user=u&{key}=hunter2/#x&sslmode=require"
    assert make_url(address).query[key] == "hunter2/#x"
    assert without_secrets(address) == f"postgresql://db/mlflow?user=u&{key}=***&sslmode=require"
    assert list(passwords(address)) == ["hunter2/#x"]


@pytest.mark.parametrize(
    "text",
    [
        "http://host:5000/path@2",
        "https://host:8443?to=a@b",
        "http://[::1]:5000/path@2",
        "http://localhost:5000/#/runs/1?by=ann@desk",
        "s3://bucket/a@b",
        "s3://bucket/a:1@b",
        "models:/name@latest",
        "models:/name/3 of ann@desk",
        "sqlite:///runs/mlflow.db",
        "sqlite:////srv/a:b@c/mlflow.db",
        "embedded://emoji",
        "see http://wiki:8080/page, or write to ann@example.org",
        "https://h/x?page=2&tokens",
        "is it a token? password=none",
    ],
)
def test_what_holds_no_secret_stays(text: str) -> None:
    assert without_secrets(text) == text
    assert list(passwords(text)) == []
