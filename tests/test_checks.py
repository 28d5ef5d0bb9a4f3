import pytest

from voxfield.checks import check_bytes, check_choice, check_range
from voxfield.errors import InputError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (1, 1),
        (4_000_000_000, 4_000_000_000),
        ("4GB", 4_000_000_000),
        ("4 gb", 4_000_000_000),
        (" 1.5GiB ", 3 * 2**29),
        ("512MB", 512_000_000),
        ("64MiB", 2**26),
        ("100KB", 100_000),
        ("2KiB", 2048),
        ("1TB", 10**12),
        ("0.5TiB", 2**39),
        ("77B", 77),
    ],
)
def test_amounts_of_memory_are_read(text, value):
    assert check_bytes("image_cache", text) == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        "4",
        "GB",
        "4G",
        "4 GBs",
        "-4GB",
        "1e9B",
        "4,5GB",
        "4GB 2MB",
        "nanGB",
        "\u0664GB",
        1.5,
        True,
        None,
        "9" * 400 + "B",
    ],
)
def test_what_is_no_amount_of_memory_is_refused(text):
    with pytest.raises(InputError, match=r"image_cache: expected an amount of memory with a unit, such as 4GB"):
        check_bytes("image_cache", text)


@pytest.mark.parametrize("text", [0, "0GB", "0.1B", -5, "999999TB"])
def test_amounts_off_range_are_refused(text):
    with pytest.raises(InputError, match=r"image_cache: expected a value at least 1 and at most"):
        check_bytes("image_cache", text)


def test_choices_are_listed_in_their_order():
    with pytest.raises(InputError, match=r"brick: unknown value 7\. Known: 8, 16, 32, 64, 128\."):
        check_choice("brick", 7, (8, 16, 32, 64, 128))
    with pytest.raises(InputError, match="unknown value True"):
        check_choice("degree", True, range(4))
    check_choice("flag", True, (True, False))
    check_choice("degree", 1, range(4))
    with pytest.raises(InputError, match="x: expected a number, got nan"):
        check_range("x", float("nan"))
