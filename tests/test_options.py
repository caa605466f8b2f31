"""Options: values of another type, or that are no number, are refused."""

import numpy as np
import pytest

from imcl_tf.options import Option, check_all
from imcl_tf.settings import METHOD_OPTIONS, known_options

OPTIONS = {
    kind: Option("x", default, "Anything.")
    for kind, default in (
        ("bool", True), ("int", 1), ("float", 1.0), ("str", "a")
    )
}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        ("int", "5", 5), ("int", 5.0, 5), ("int", np.int64(5), 5),
        ("float", "1e-3", 0.001), ("float", 2, 2.0),
        ("float", np.float32(0.5), 0.5),
        ("bool", "TRUE", True), ("bool", 0, False), ("bool", np.True_, True),
        ("str", "1", "1"),
    ],
)  # fmt: skip
def test_values_of_the_type(kind, value, expected):
    checked = OPTIONS[kind].checked(value)
    assert checked == expected and type(checked) is type(expected)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("int", 2.7), ("int", "2.7"), ("int", float("inf")), ("int", True),
        ("int", float("nan")), ("int", None), ("int", "five"),
        ("float", float("inf")), ("float", "-inf"), ("float", "nan"),
        ("float", "1e999"), ("float", False), ("float", None),
        ("float", 10**400),
        ("bool", "yes"), ("bool", 2), ("bool", None), ("bool", 0.5),
        ("str", 1), ("str", None),
    ],
)  # fmt: skip
def test_other_values_are_refused_by_name(kind, value):
    words = {
        "bool": "true or false", "int": "whole number", "float": "number",
        "str": "text",
    }  # fmt: skip
    with pytest.raises(ValueError) as caught:
        OPTIONS[kind].checked(value)
    assert str(caught.value) == f"x must be a {words[kind]}, got {value!r}"


def test_options_of_imcl():
    options = METHOD_OPTIONS["imcl"]
    for wrong in ({"num_neighbors": 2.7}, {"lambda_y": float("inf")}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            check_all(options, wrong)
    for option in known_options().values():
        assert option.checked(option.default) == option.default


@pytest.mark.parametrize(
    ("value", "good"),
    [("a", True), ("my dir/x.keras", True), ("keras:B0", True), ("b", False),
     (".keras", False), ("keras:", False), ("x.keras.zip", False),
     ("FILE_keras", False)],
)  # fmt: skip
def test_forms(value, good):
    """Words in capitals stand for any text; the dot is one."""
    option = Option(
        "net", "a", "Help.", choices=("a",), forms=("FILE.keras", "keras:NAME")
    )
    if good:
        assert option.checked(value) == value
        return
    with pytest.raises(ValueError, match="one of a, FILE.keras, keras:NAME, "):
        option.checked(value)


def test_several_choices():
    option = Option("x", "", "Any.", choices=("a", "b", "c"), several=True)
    for value in ("", "b", "c,a", "a,a"):
        assert option.checked(value) == value
    for value in ("d", "a,", "a b", ",", "a|b", "a, b"):
        with pytest.raises(ValueError) as caught:
            option.checked(value)
        assert str(caught.value) == (
            f"x must be any of a, b, c, apart by commas, got {value!r}"
        )
