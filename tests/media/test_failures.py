import pytest

from copytrace.errors import InputError, TooManyFailuresError
from copytrace.media.failures import Failure, check_failure_rate, read_failures, write_failures


def test_failures_are_written_sorted_under_a_header(tmp_path):
    failures = [
        Failure("b", "/x/b.jpg", "describe", "empty file"),
        Failure("a", "/x/a.jpg", "describe", "file not found"),
    ]
    path = write_failures(tmp_path / "out" / "failures.csv", failures)
    assert path.read_bytes() == (
        b"id,path,stage,error\na,/x/a.jpg,describe,file not found\nb,/x/b.jpg,describe,empty file\n"
    )


def test_no_failures_give_a_file_with_only_the_header(tmp_path):
    path = write_failures(tmp_path / "failures.csv", [])
    assert path.read_text() == "id,path,stage,error\n"
    assert read_failures(path) == []


def test_an_error_of_several_lines_becomes_one(tmp_path):
    path = write_failures(tmp_path / "failures.csv", [Failure("a", "p", "describe", "first\r\n  second\n")])
    assert read_failures(path) == [Failure("a", "p", "describe", "first second")]


@pytest.mark.parametrize("name", ['comma, quote " and tab\t', "line\nbreak", "carriage\rreturn", "007", "é漢"])
def test_any_name_comes_back_as_it_was(tmp_path, name):
    failure = Failure(name, f"/x/{name}", "describe", "empty file")
    assert read_failures(write_failures(tmp_path / "failures.csv", [failure])) == [failure]


def test_an_earlier_list_is_replaced_and_no_temporary_file_stays(tmp_path):
    write_failures(tmp_path / "failures.csv", [Failure("a", "p", "describe", "old")])
    write_failures(tmp_path / "failures.csv", [Failure("a", "p", "describe", "new")])
    assert [path.name for path in tmp_path.iterdir()] == ["failures.csv"]
    assert read_failures(tmp_path / "failures.csv")[0].error == "new"


def test_a_file_with_another_header_is_refused(tmp_path):
    (tmp_path / "matches.csv").write_text("query_id,reference_id,score\n")
    with pytest.raises(InputError, match="not a list of failures"):
        read_failures(tmp_path / "matches.csv")


@pytest.mark.parametrize(
    ("failed", "total", "max_rate"), [(0, 0, 0.0), (0, 10, 0.0), (1, 10, 0.1), (10, 10, 1.0), (1, 2, 0.1)]
)
def test_a_rate_up_to_the_limit_is_borne_and_one_failure_among_several(failed, total, max_rate, tmp_path):
    assert check_failure_rate(failed, total, max_rate, tmp_path / "failures.csv") is None


def test_a_rate_above_the_limit_says_how_many_of_what_and_where_the_reasons_are(tmp_path):
    with pytest.raises(TooManyFailuresError) as caught:
        check_failure_rate(1200, 4800, 0.1, tmp_path / "failures.csv", what="images among the queries")
    assert str(caught.value) == (
        "1,200 of 4,800 images among the queries cannot be read (25.0%), and media.max_failure_rate allows 10.0%; "
        f"the reasons are in {tmp_path / 'failures.csv'}; mend or remove the files, or give a larger "
        "media.max_failure_rate"
    )


@pytest.mark.parametrize(("failed", "total", "max_rate"), [(1, 1_000_000, 0.0), (1, 1, 0.5), (2, 3, 0.2)])
def test_more_failures_than_are_allowed_are_too_many(failed, total, max_rate, tmp_path):
    with pytest.raises(TooManyFailuresError):
        check_failure_rate(failed, total, max_rate, tmp_path / "failures.csv")
