"""A check of many bins: which bins, which photos, what is stored, what is written. Nothing is started."""

import csv
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest
from PIL import Image

from serve.bin_check.asking import Question
from serve.bin_check.bin_check import BinCheck
from serve.bin_check.bin_listing import check_listing
from serve.bin_check.bin_photos import open_photos
from serve.bin_check.bin_records import ListedBin, open_bins
from serve.bin_check.check_journal import NAME, CheckJournal
from serve.bin_check.checked_bin import CheckedBin, from_answer
from serve.bin_check.filing import file_candidates
from serve.bin_check.recount_list import RecountList, Wishes, make_list, write_list
from serve.bin_check.recount_page import SHOWN, write_page
from serve.errors import DataError, FieldError, MissingError, PhotoError, RequestError, SettingsError
from serve.evidence.record import Record
from serve.objects.folder_objects import FolderObjects
from serve.recount.base_rate import BaseRate
from serve.recount.queue_store import RecountStore
from serve.recount.recount_entities import Outcome
from tests.records import RECORD

SOURCE = {"records": "R", "photos": "P", "model": "M"}
HOSTILE = '=HYPERLINK("http://example.com")<script>alert(1)</script>'


class FixedAnswers:
    """Answers without a model: the p-value is the bin's number in hundredths."""

    model, workers, chunk = "M", 2, 3

    def __init__(self, version: str = "1") -> None:
        self.version = version
        self.bin_ids: list[str] = []

    def ask(self, questions: Sequence[Question]) -> Iterator[Mapping[str, object] | RequestError]:
        for question in questions:
            self.bin_ids.append(question.item.bin_id)
            number, quantity = int(question.item.bin_id), question.item.record.quantity
            if number == 13:
                yield PhotoError("the photo is neither JPEG nor PNG")
                continue
            yield {
                "count": 2,
                "expected_count": 2.2,
                "fit": {"2": 1.0, "3": number / 100},
                "probability": 0.4,
                "verdict": "mismatch" if number <= 5 and quantity == 3 else "unsure",
                "evidence": "photo",
                "reason": HOSTILE,
                "calibration_photos": 99,
                "model_version": self.version,
            }


@pytest.fixture
def bins(tmp_path: Path) -> Path:
    """20 bins, records and photos: bin 07 has no photo, bin 09 no record that can be used."""
    for name in ("records", "photos", "out"):
        (tmp_path / name).mkdir()
    for number in range(1, 21):
        content: object = {"EXPECTED_QUANTITY": 3 if number < 19 else 9}
        (tmp_path / "records" / f"{number:02}.json").write_text(json.dumps(content if number != 9 else [1]))
        if number != 7:
            Image.new("RGB", (64, 48), (number, 90, 90)).save(tmp_path / "photos" / f"{number:02}.jpg")
    return tmp_path


def check(folder: Path, asker: FixedAnswers | None = None, source: Mapping[str, str] = SOURCE) -> RecountList:
    records, photos = open_bins(str(folder / "records")), open_photos(str(folder / "photos"), "")
    journal, done = CheckJournal(folder / "out", source), list[int]()
    BinCheck(records, photos, asker or FixedAnswers(), journal).run(done.append)
    return make_list(journal.bins(), records.bin_ids, BaseRate(), Wishes(budget=5))


def test_every_bin_is_asked_about_once_and_the_others_are_named(bins: Path) -> None:
    asker = FixedAnswers()
    result = check(bins, asker)
    assert sorted(asker.bin_ids) == [f"{number:02}" for number in range(1, 21) if number not in (7, 9)]
    assert [item.bin_id for item in result.problems] == ["07", "09", "13"]
    assert "neither JPEG nor PNG" in result.problems[2].problem
    assert [entry.item.bin_id for entry in result.entries[:3]] == ["01", "02", "03"]
    assert [entry.rank for entry in result.entries] == list(range(1, 18))
    last = result.entries[-1]
    assert (last.item.p_value, last.probability_wrong, result.unknown) == (None, None, 2), "the model does not know 9"
    again = FixedAnswers()
    assert check(bins, again) == result
    assert again.bin_ids == []


def test_a_check_that_was_killed_goes_on_and_gives_the_same_list(bins: Path) -> None:
    result = check(bins)
    write_list(result, bins / "out")
    whole, journal = (bins / "out" / "recount.csv").read_text(), bins / "out" / NAME
    lines = journal.read_bytes().splitlines(keepends=True)
    for kept in (0, 1, 2, 9, len(lines) - 1):
        journal.write_bytes(b"".join(lines[:kept]) + lines[min(kept, len(lines) - 1)][:20])
        asker = FixedAnswers()
        write_list(check(bins, asker), bins / "out")
        assert (bins / "out" / "recount.csv").read_text() == whole
        assert len(asker.bin_ids) == len(set(asker.bin_ids)) <= 21 - kept
        assert len(set(journal.read_text().splitlines())) == len(journal.read_text().splitlines()) == 21


def test_a_journal_of_another_model_or_other_records_is_refused(bins: Path) -> None:
    check(bins)
    for name in SOURCE:
        with pytest.raises(DataError, match=f"{name} other"):
            check(bins, source={**SOURCE, name: "other"})
    (bins / "records" / "21.json").write_text('{"EXPECTED_QUANTITY": 3}')
    (bins / "photos" / "21.jpg").write_bytes((bins / "photos" / "01.jpg").read_bytes())
    with pytest.raises(DataError, match="model 1, now there is model 2"):
        check(bins, FixedAnswers("2"))
    (bins / "out" / NAME).write_text("a letter\n")
    with pytest.raises(DataError, match=NAME):
        check(bins)


def test_no_cell_of_the_list_is_a_formula_and_no_text_of_the_page_is_markup(bins: Path) -> None:
    result = check(bins)
    table = write_list(result, bins / "out")
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert {row["reason"] for row in rows} == {f"'{HOSTILE}"}
    assert [row["chosen"] for row in rows][:6] == ["yes"] * 5 + [""]
    problems = csv.DictReader((bins / "out" / "problems.csv").read_text().splitlines())
    assert [row["bin_id"] for row in problems] == ["07", "09", "13"]
    photos, records = open_photos(str(bins / "photos"), ""), open_bins(str(bins / "records"))
    text = write_page(result, records, photos, bins / "out" / "recount.html").read_text()
    assert "<script" not in text
    assert "&lt;script&gt;alert(1)" in text
    assert len(re.findall('<img src="data:image/jpeg;base64,', text)) == len(rows) < SHOWN
    assert not re.findall(r'(?:src|href)="(?!data:)', text)


def test_the_summary_says_what_to_expect(bins: Path) -> None:
    result = check(bins)
    content = json.loads(json.dumps(result.to_json()))
    assert (content["checked"], content["problems"], content["not_judged"], content["alarms"]) == (17, 3, 2, 5)
    assert content["budget"]["bins"] == 5
    assert content["budget"]["interval"][0] <= content["budget"]["wrong"] <= content["budget"]["interval"][1]
    assert (content["base_rate"], content["recounts"], content["fdr"]) == (0.02, 0, None)
    assert "the first 5 are expected to hold" in result.text()


def test_alarms_and_the_random_share_wait_for_a_recount_and_settled_ones_do_not_come_again(bins: Path) -> None:
    result, photos, records = check(bins), open_photos(str(bins / "photos"), ""), open_bins(str(bins / "records"))
    store = RecountStore(FolderObjects(bins / "recounts"))
    assert file_candidates(result, records, photos, store, 0.0) == 5
    waiting = {candidate.bin_id: candidate for candidate in store.pending()}
    assert sorted(waiting) == ["01", "02", "03", "04", "05"]
    first = waiting["01"]
    assert (first.alarm, first.random, first.p_value, first.recorded_quantity) == (True, False, 0.01, 3)
    assert (first.calibration_photos, first.model_version) == (99, "1")
    assert store.photo(first.event_id) == (bins / "photos" / "01.jpg").read_bytes()
    store.settle(first.event_id, Outcome.COUNT, 2, "dock-3", datetime.now(UTC))
    assert file_candidates(result, records, photos, store, 1.0) == 12
    assert len(store.pending()) == 16


def test_bins_are_read_from_a_table_with_their_products_and_photos(tmp_path: Path) -> None:
    (tmp_path / "stock.csv").write_text(
        "bin_id;quantity;id;name;photo\n7;2;B1;Ball;seven.jpg\n7;1;B2;Cup;\n9;-1;B3;Bad;s3://bucket/nine.jpg\n"
    )
    records = open_bins(str(tmp_path / "stock.csv"))
    photos = open_photos("", str(tmp_path / "stock.csv"))
    assert list(records.bin_ids) == ["7", "9"]
    item = records.read("7")
    assert (item.record.quantity, [product.name for product in item.record.products]) == (3, ["Ball", "Cup"])
    assert photos.find("7", item.photo) == str(tmp_path / "seven.jpg")
    assert photos.find("9", "s3://bucket/nine.jpg") == "s3://bucket/nine.jpg"
    with pytest.raises(FieldError, match="-1"):
        records.read("9")
    with pytest.raises(MissingError):
        photos.find("7")
    with pytest.raises(MissingError, match=re.escape("seven.jpg")):
        photos.read(str(tmp_path / "seven.jpg"))


def test_a_table_of_quantities_alone_needs_no_products(tmp_path: Path) -> None:
    (tmp_path / "records.csv").write_text("bin_id,quantity,photo\n7,2,a.jpg\n8,0,b.jpg\n")
    records = open_bins(str(tmp_path))
    assert [records.read(bin_id).record.quantity for bin_id in records.bin_ids] == [2, 0]
    assert records.read("7").content == {"EXPECTED_QUANTITY": 2}


def test_a_folder_keeps_records_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(RECORD))
    assert open_bins(str(tmp_path)).read("a").content == RECORD


@pytest.mark.parametrize(
    ("place", "content"), [("none", None), ("empty", None), ("a.csv", "bin_id,count\n1,2\n"), ("b.csv", "")]
)
def test_records_that_are_none_are_refused(tmp_path: Path, place: str, content: str | None) -> None:
    (tmp_path / "empty").mkdir()
    if content is not None:
        (tmp_path / place).write_text(content)
    with pytest.raises(DataError, match=place):
        open_bins(str(tmp_path / place))


@pytest.mark.parametrize("query", ["DELETE FROM stock", "SELECT 1; SELECT 2", "SELECT * FROM stock WHERE bin_id = :id"])
def test_a_query_lists_bins_and_nothing_else(query: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(query)):
        check_listing(query)
    assert check_listing("SELECT '1'::text AS bin_id, 2 AS quantity;") == "SELECT '1'::text AS bin_id, 2 AS quantity"


def test_a_database_needs_a_query() -> None:
    with pytest.raises(SettingsError, match="--query"):
        open_bins("sqlite:////tmp/stock.db")


@pytest.mark.parametrize(("recorded", "p_value"), [(2, 0.5), (3, 0.25), (7, 0.25)])
def test_an_open_count_stands_for_all_larger_ones(recorded: int, p_value: float) -> None:
    item = ListedBin("1", Record(recorded), {})
    answer = {"fit": {"2": 0.5, "3+": 0.25}, "count": 3, "verdict": "match", "reason": "r", "calibration_photos": 3}
    checked = from_answer(item, "1.jpg", answer, "9", "2026-11-30T12:00:00Z")
    assert (checked.p_value, checked.seen, checked.seen_open) == (p_value, 3, True)
    assert checked.judged is not None


def test_nothing_is_said_without_calibration_photos_nor_of_bins_that_were_not_answered() -> None:
    answered = CheckedBin(bin_id="1", p_value=0.5, calibration_photos=0, scores="3+ photo")
    assert answered.judged is None
    with pytest.raises(DataError, match="none of 1 bins"):
        make_list([CheckedBin(bin_id="1", problem="no photo")], ["1"], BaseRate(), Wishes())


@pytest.mark.parametrize("wishes", [Wishes(budget=0), Wishes(fdr=1.5), Wishes(one_in=0)])
def test_wishes_out_of_range_are_refused_before_the_check(wishes: Wishes) -> None:
    with pytest.raises(SettingsError):
        wishes.check()
