import pytest

from config.shell.errors import Usage
from config.shell.sizes import count_words, parse_size, size_words


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("0", 0), ("4096", 4096), ("1B", 1), ("10G", 10 * 2**30), ("10g", 10 * 2**30), ("512MiB", 512 * 2**20),
        ("512 MiB", 512 * 2**20), ("1.5T", 3 * 2**39), ("1TB", 10**12), ("1kB", 1000), ("0.5K", 512),
        ("9007199254740993", 9007199254740993), ("16777215.999T", None), ("8191P", 8191 * 2**50),
    ],
)  # fmt: skip
def test_a_size_is_exact_or_refused(text: str, size_bytes: int | None) -> None:
    if size_bytes is None:
        with pytest.raises(Usage, match="whole number of bytes"):
            parse_size("size", text)
    else:
        assert parse_size("size", text) == size_bytes


@pytest.mark.parametrize("text", ["", "G", "-1G", "1X", "1e9", "0x10", "1..5G", "١G", "1 G B", "9" * 30, "1.3K"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(Usage, match="is not a"):
        parse_size("size", text)


@pytest.mark.parametrize(
    ("size_bytes", "words"),
    [
        (0, "0 B"), (512, "512 B"), (1024, "1 KiB"), (10 * 2**30, "10 GiB"), (10 * 2**30 + 512, "≈10 GiB"),
        (3 * 2**29, "1.5 GiB"), (2**60, "1 EiB"), (10**12, "≈931.323 GiB"),
    ],
)  # fmt: skip
def test_size_words_say_when_they_are_rounded(size_bytes: int, words: str) -> None:
    assert size_words(size_bytes) == words


@pytest.mark.parametrize("size_bytes", [1, 512, 2**20, 5 * 2**30, 3 * 2**39, 64 * 2**20])
def test_exact_size_words_are_read_back_as_the_same(size_bytes: int) -> None:
    assert parse_size("size", size_words(size_bytes)) == size_bytes


def test_counts_have_few_figures() -> None:
    assert [count_words(count) for count in (0, 950.4, 12_345, 4_560_000, 7e9)] == ["0", "950", "12.3k", "4.56M", "7G"]
