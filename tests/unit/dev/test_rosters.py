"""The roster reader and the sample rosters: what is read, how mistakes are told, and that the samples hold
exactly what their README says and no number that could be a person's."""

import re
from collections import Counter
from itertools import combinations
from pathlib import Path

import pytest

from vault_service.dev.rosters import COLUMNS, RosterError, Row, read_roster

SAMPLES = Path(__file__).parents[3] / "vault_service" / "dev" / "samples"
HEADER = ",".join(COLUMNS) + "\n"
CANARY = "900-12-3456"
DUMMIES = {"078051120", "219099999", "457555462"}


@pytest.fixture(scope="module")
def k12() -> list[Row]:
    return read_roster(SAMPLES / "k12_roster.csv")


@pytest.fixture(scope="module")
def highered() -> list[Row]:
    return read_roster(SAMPLES / "higher_education_roster.csv")


def write(directory: Path, content: str | bytes) -> Path:
    path = directory / "roster.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_rows_come_as_they_stand_in_any_order_of_columns(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        f'\ufeffssn,student_id,date_of_birth,given_name,family_name\n{CANARY} ,7,,"A\nB",C\n\n,8,,,\n',
    )
    assert read_roster(path) == [Row("7", "A\nB", "C", "", CANARY + " "), Row("8", "", "", "", "")]


def test_a_row_does_not_print_its_number_or_its_person() -> None:
    row = Row("7", "Ana", "Medina", "2008-01-02", CANARY)
    assert repr(row) == str(row) == f"{row}" == "Row(student_id='7')"


@pytest.mark.parametrize(
    ("content", "line", "column"),
    [
        ("", 1, "student_id"),
        ("student_id,given_name,family_name,date_of_birth\n", 1, "ssn"),
        (HEADER.replace("\n", ",ssn\n"), 1, "ssn"),
        (HEADER.replace("\n", ",x900123456\n"), 1, ""),
        (f"7,A,B,2008-01-02,{CANARY}\n", 1, "student_id"),
        (HEADER + f"7,A,B,C,{CANARY}\n8,{CANARY},B\n", 3, "date_of_birth"),
        (HEADER + f"7,A,B,C,{CANARY},more\n", 2, ""),
        (HEADER + f" ,A,B,C,{CANARY}\n", 2, "student_id"),
        (HEADER + f"{CANARY},A,B,C,D\n8,A,B,C,D\n{CANARY},A,B,C,D\n", 4, "student_id"),
        (HEADER + CANARY * 12 + ",A,B,C,D\n", 2, "student_id"),
        (HEADER + f'7,"A\nA",B,C,{CANARY}\n8,"{CANARY},B,C,D\n', 4, ""),
        (HEADER.encode() + b"7,A,B,C,D\n8,A,B\xff,C,900-12-3456\n", 3, "family_name"),
    ],
)
def test_a_mistake_is_told_by_line_and_column_and_never_by_value(
    tmp_path: Path, content: str | bytes, line: int, column: str
) -> None:
    with pytest.raises(RosterError) as caught:
        read_roster(write(tmp_path, content))
    assert (caught.value.line, caught.value.column) == (line, column)
    for shown in (str(caught.value), repr(caught.value), repr(caught.value.__cause__)):
        assert "900" not in shown
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_every_sample_number_is_fictitious_published_or_malformed(k12: list[Row], highered: list[Row]) -> None:
    for row in k12 + highered:
        for cell in (row.student_id, row.given_name, row.family_name, row.date_of_birth, row.ssn):
            # Digits of every script, whatever stands between them: a disguised number is looked at too.
            digits = "".join(str(int(character)) for character in cell if character.isdecimal())
            if len(digits) == 9:
                fictitious = digits[0] == "9" and digits[3] in "01234"
                assert fictitious or digits in DUMMIES | {"123456789"}, row
            else:
                assert len(digits) <= 8, row


def kind(ssn: str) -> str:
    digits = re.sub("[- ]", "", ssn)
    if digits in DUMMIES:
        return "a published dummy number"
    if digits == "123456789":
        return "123456789"
    if re.fullmatch(r"9[0-9]{2}-[0-4][0-9]-[0-9]{4}", ssn):
        return "nine digits with dashes"
    if re.fullmatch(r"9[0-9]{2} [0-4][0-9] [0-9]{4}", ssn):
        return "nine digits with spaces"
    if re.fullmatch(r"9[0-9]{2}[0-4][0-9]{5}", ssn):
        return "nine digits alone"
    if re.fullmatch(r"9[0-9]{7}", ssn):
        return "a digit lost, eight left"
    if not ssn:
        return "blank"
    return "one full-width digit" if re.fullmatch(r"\d{9}", ssn) else "a word"


def well_formed(rows: list[Row]) -> list[tuple[str, Row]]:
    kept = [row for row in rows if kind(row.ssn).startswith("nine digits")]
    return [(re.sub("[- ]", "", row.ssn), row) for row in kept]


def dirt(rows: list[Row]) -> Counter[str]:
    counts = Counter(kind(row.ssn) for row in rows)
    numbers = well_formed(rows)
    counts["rows"] = len(rows)
    counts["a number that an earlier row has (the same person twice)"] = len(numbers) - len({n for n, _ in numbers})
    for row in rows:
        if not row.date_of_birth:
            counts["date of birth missing"] += 1
        elif not re.fullmatch(r"\d{4}-\d{2}-\d{2}", row.date_of_birth):
            counts["date of birth as month/day/year"] += 1
        counts["given name missing"] += not row.given_name
        counts["given name only an initial"] += len(row.given_name) == 1
    return counts


def one_edit(left: str, right: str) -> str | None:
    apart = [place for place in range(9) if left[place] != right[place]]
    if len(apart) == 1:
        return "one digit differs"
    if len(apart) == 2 and apart[1] - apart[0] == 1:
        first, second = apart
        if left[first] == right[second] and left[second] == right[first]:
            return "two neighbouring digits swapped"
    return None


def in_common(k12: list[Row], highered: list[Row]) -> Counter[str]:
    left, right = dict(well_formed(k12)), dict(well_formed(highered))
    counts: Counter[str] = Counter()
    for number in left.keys() & right.keys():
        counts["the same number"] += 1
        mine, other = left[number], right[number]
        counts["of those, given name spelled differently"] += mine.given_name[:1] != mine.given_name and (
            other.given_name != mine.given_name
        )
        counts["of those, family name changed"] += other.family_name != mine.family_name
    for number in right.keys() - left.keys():
        for candidate in left:
            relation = one_edit(number, candidate)
            if relation:
                assert left[candidate].date_of_birth == right[number].date_of_birth
                counts[relation] += 1
    persons = {(row.family_name, row.date_of_birth) for row in k12}
    counts["no number in the higher education roster"] = sum(
        (row.family_name, row.date_of_birth) in persons
        for row in highered
        if not kind(row.ssn).startswith("nine digits")
    )
    return counts


def test_the_readme_states_the_counts(k12: list[Row], highered: list[Row]) -> None:
    readme = (SAMPLES / "README.md").read_text(encoding="utf-8")
    table = re.findall(r"^\| ([^|]+?) \| (\d+) \| (\d+) \|$", readme, re.MULTILINE)
    left, right = dirt(k12), dirt(highered)
    assert {what: (int(a), int(b)) for what, a, b in table} == {
        what: (left[what], right[what]) for what in left.keys() | right.keys()
    }
    common = re.findall(r"^\| ([^|]+?) \| (\d+) \|$", readme, re.MULTILINE)
    assert {what: int(count) for what, count in common} == in_common(k12, highered)


def test_no_two_numbers_of_one_roster_are_one_edit_apart(k12: list[Row], highered: list[Row]) -> None:
    for rows in (k12, highered):
        numbers = {number for number, _ in well_formed(rows)}
        assert not [pair for pair in combinations(sorted(numbers), 2) if one_edit(*pair)]
