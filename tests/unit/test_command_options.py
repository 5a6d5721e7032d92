import pytest

from flows.commands.options import without_password


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql+psycopg2://ann:se%40c:ret@db:5432/mlflow", "postgresql+psycopg2://ann:***@db:5432/mlflow"),
        ("postgresql://ann:se@cret@db/x", "postgresql://ann:***@db/x"),
        ("postgresql+psycopg2://postgres@/mlflow?host=/run", "postgresql+psycopg2://postgres@/mlflow?host=/run"),
        ("http://127.0.0.1:4200/api", "http://127.0.0.1:4200/api"),
        ("https://:token@git.example/x.git", "https://:***@git.example/x.git"),
        ("/home/ann/origin.git", "/home/ann/origin.git"),
    ],
)
def test_no_password_is_shown(url: str, shown: str) -> None:
    assert without_password(url) == shown
