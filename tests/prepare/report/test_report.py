import json
import re
from html.parser import HTMLParser

import numpy as np
import pyarrow as pa
import pytest

from sa2va_ray.pictures.sheet import Picture
from sa2va_ray.prepare.examine import SCHEMA
from sa2va_ray.prepare.report.corrections import describe_corrections, summarize_corrections
from sa2va_ray.prepare.report.numbers import build_report
from sa2va_ray.prepare.report.page import render_report
from sa2va_ray.prepare.report.pictures import ReportPictures

NEEDED = {
    "max_quarantined_fraction": 0.5,
    "has_pseudonym_key": True,
    "split_notes": [],
    "source_notes": ["drive: 2 left."],
    "corrections": {},
}
FACTS = {**NEEDED, "layouts": {"guide": 7}, "config": {"split_seed": 3}}
NO_PICTURES = ReportPictures([], [])
VOID = {"meta", "img", "br", "rect", "line"}
HOSTILE = "<script>alert('x')</script>\"'&"


def item(index, **columns):
    row = {"index": index, "verdict": "ok", "findings": [], "patient_id": "p1", "run_id": "r1", "split": "train"}
    row |= {"height": 512, "width": 768, "num_objects": 1, "foreground": 0.10, "mask_dice": None}
    return row | columns


def quarantined(index, code="empty_mask", detail="Nothing.", **columns):
    findings = [{"code": code, "detail": detail}]
    return item(index, verdict="quarantined", findings=findings, split=None, num_objects=None, **columns)


def unopened(index, **columns):
    return quarantined(
        index, "image_unreadable", "Broken.", height=None, width=None, foreground=None, mask_dice=None, **columns
    )


def repaired(index, *codes, **columns):
    findings = [{"code": code, "detail": f"{code} of {index}, {place}."} for place, code in enumerate(codes)]
    return item(index, verdict="repaired", findings=findings, **columns)


def table(rows):
    return pa.Table.from_pylist(rows, schema=SCHEMA)


@pytest.fixture
def outcomes():
    """Seven items in two chunks, not in the order of the source."""
    rows = [
        repaired(5, "rescaled", foreground=0.1),
        item(6, patient_id="p3", run_id="r4", split="test", num_objects=3, foreground=0.3),
        repaired(2, "rescaled", "rescaled", "clipped", run_id="r2", foreground=0.12, mask_dice=0.97),
        quarantined(3, "low_dice", "0.41.", patient_id="p2", run_id="r3", mask_dice=0.41),
        item(0, mask_dice=1.0),
        item(1, foreground=0.08, height=800, width=800),
        unopened(4, patient_id=None, run_id=None),
    ]
    return pa.concat_tables([table(rows[:4]), table(rows[4:])])


class Reader(HTMLParser):
    """Fails on tags that are not closed; collects attributes and texts."""

    def __init__(self, html):
        super().__init__()
        self.open, self.tags, self.texts = [], [], []
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())


def test_numbers_of_a_table_made_by_hand(outcomes):
    report = build_report(outcomes, FACTS)
    assert report["num_items"] == 7
    assert report["verdicts"] == {"ok": 3, "repaired": 2, "quarantined": 2}
    assert report["codes"] == [
        {"verdict": "quarantined", "code": "image_unreadable", "count": 1, "detail": "Broken.", "items": [4]},
        {"verdict": "quarantined", "code": "low_dice", "count": 1, "detail": "0.41.", "items": [3]},
        {"verdict": "repaired", "code": "rescaled", "count": 2, "detail": "rescaled of 2, 0.", "items": [2, 5]},
        {"verdict": "repaired", "code": "clipped", "count": 1, "detail": "clipped of 2, 2.", "items": [2]},
    ]
    assert report["sizes"] == {
        "most_frequent": [{"height": 512, "width": 768, "count": 5}, {"height": 800, "width": 800, "count": 1}],
        "num_other_sizes": 0,
        "num_other_images": 0,
    }
    assert report["patients"] == [
        {"patient_id": "p1", "split": "train", "samples": 4, "runs": 2, "quarantined": 0},
        {"patient_id": "p3", "split": "test", "samples": 1, "runs": 1, "quarantined": 0},
        {"patient_id": "p2", "split": None, "samples": 0, "runs": 0, "quarantined": 1},
    ]
    assert report["facts"] == FACTS
    assert json.loads(json.dumps(report)) == report


def test_splits_count_what_is_used(outcomes):
    splits = build_report(outcomes, FACTS)["splits"]
    foreground = splits["train"].pop("foreground")
    assert splits["train"] == {"samples": 4, "patients": 1, "runs": 2, "objects": 4, "negatives": 0}
    low, median, high = np.percentile([0.08, 0.1, 0.1, 0.12], [5, 50, 95])
    assert foreground == pytest.approx({"median": median, "p5": low, "p95": high})
    empty = {"median": None, "p5": None, "p95": None}
    none = dict.fromkeys(("samples", "patients", "runs", "objects", "negatives"), 0)
    assert splits["val"] == {**none, "foreground": empty}
    assert splits["test"]["objects"] == 3


def test_samples_are_counted_by_phrase_where_there_are_several():
    rows = [
        item(0, phrases=["artery", "vein"]),
        item(1, phrases=["artery"], split="test"),
        item(2, phrases=["artery"], num_objects=0),
        quarantined(3, phrases=["vein"]),
    ]
    report = build_report(table(rows), FACTS)
    assert report["phrases"] == {
        "artery": {"train": 1, "val": 0, "test": 1},
        "vein": {"train": 1, "val": 0, "test": 0},
    }
    page = render_report(report, NO_PICTURES).decode()
    assert '<th scope="row">vein</th><td class="n">1</td><td class="n">0</td><td class="n">0</td>' in page
    assert "<li>drive: 2 left.</li>" in page
    assert "<h3>Phrases</h3>" not in render_report(build_report(table(rows[1:2]), FACTS), NO_PICTURES).decode()


def test_histograms_reach_from_their_fixed_end_to_the_last_value(outcomes):
    report = build_report(outcomes, FACTS)
    foreground, dice, samples = (report[name] for name in ("foreground", "mask_dice", "samples_per_patient"))
    assert (foreground["edges"][0], foreground["edges"][-1], len(foreground["counts"])) == (0, 0.4, 20)
    assert {place: count for place, count in enumerate(foreground["counts"]) if count} == {4: 1, 5: 3, 6: 1, 15: 1}
    assert {place: count for place, count in enumerate(foreground["quarantined"]) if count} == {5: 1}
    assert (dice["edges"][0], dice["edges"][-1]) == (0, 1)
    assert (dice["counts"][8], dice["quarantined"][8], dice["counts"][19], dice["quarantined"][19]) == (1, 1, 2, 0)
    assert samples == {"edges": [1, 2, 3, 4, 5], "counts": [1, 0, 0, 1], "quarantined": [0, 0, 0, 0], "median": 2.5}


@pytest.mark.parametrize("largest", [1, 19, 20, 21, 1000])
def test_every_patient_is_in_the_histogram(largest):
    rows = [item(index, patient_id="big", mask_dice=None) for index in range(largest)]
    histogram = build_report(table([*rows, item(largest, patient_id="small")]), FACTS)["samples_per_patient"]
    assert sum(histogram["counts"]) == 2
    assert len(histogram["counts"]) <= 20
    assert np.diff(histogram["edges"]).min() == np.diff(histogram["edges"]).max()


def test_long_lists_are_cut_and_say_so():
    rows = [
        quarantined(place, patient_id=f"p{place:03d}", height=100 + place // 2, width=100, foreground=0.2)
        for place in range(250)
    ]
    report = build_report(table(rows), FACTS)
    assert report["codes"][0]["items"] == list(range(10))
    assert report["codes"][0]["count"] == 250
    assert len(report["sizes"]["most_frequent"]) == 20
    assert (report["sizes"]["num_other_sizes"], report["sizes"]["num_other_images"]) == (105, 210)
    assert len(report["patients"]) == 250
    text = Reader(render_report(report, NO_PICTURES).decode()).text
    assert "200 of 250 are shown, 50 are left out here" in text
    assert "p199" in text
    assert "p200" not in text
    assert "0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 240 more" in text
    assert "105 other sizes 210" in text


@pytest.mark.parametrize(
    ("num_bad", "num_items", "allowed", "sentence"),
    [
        (0, 1220, 0.05, "All 1,220 samples can be used."),
        (5, 1220, 0.05, "5 of 1,220 samples are in quarantine (0.41 %); allowed are 5 %."),
        (61, 1220, 0.05, "61 of 1,220 samples are in quarantine (5 %); allowed are 5 %."),
        (62, 1220, 0.05, "62 of 1,220 samples are in quarantine (5.1 %), more than the 5 % that are allowed."),
        (1, 20_000, 0, "1 of 20,000 samples are in quarantine (less than 0.01 %), more than the 0 % that are allowed."),
        (1999, 2000, 0.1, "1,999 of 2,000 samples are in quarantine (more than 99.9 %), more than the 10 %"),
        (3, 3, 1, "3 of 3 samples are in quarantine (100 %); allowed are 100 %."),
        (0, 0, 0.05, "The source has no samples."),
    ],
)
def test_headline_says_what_the_counts_mean(num_bad, num_items, allowed, sentence):
    rows = [unopened(place) if place < num_bad else item(place) for place in range(num_items)]
    report = build_report(table(rows), {**NEEDED, "max_quarantined_fraction": allowed})
    reader = Reader(render_report(report, NO_PICTURES).decode())
    assert sentence in reader.text
    assert ("No data set is written" in reader.text) == ("more than the" in sentence)


def test_page_needs_nothing_from_outside(outcomes):
    picture = Picture("A caption.", np.zeros((10, 20, 3), np.uint8))
    html = render_report(build_report(outcomes, FACTS), ReportPictures([picture], [picture])).decode()
    tags = Reader(html).tags
    assert not re.search(r"https?:|@import|url\(|<script|<link|<iframe", html)
    addresses = [
        attributes[name] for _, attributes in tags for name in ("src", "href", "xlink:href") if name in attributes
    ]
    assert len(addresses) == 2
    assert all(address.startswith("data:image/webp;base64,") for address in addresses)
    assert all(attributes["alt"] == "A caption." for tag, attributes in tags if tag == "img")
    assert all(attributes.get("scope") in ("row", "col") for tag, attributes in tags if tag == "th")
    assert all({"aria-label", "aria-hidden"} & attributes.keys() for tag, attributes in tags if tag == "svg")
    assert [tag for tag, _ in tags].count("h1") == 1


def test_what_the_splits_lack_stands_above_the_numbers():
    facts = {**FACTS, "split_notes": ["One person may be two, see `patient_pattern`."]}
    html = render_report(build_report(table([item(0)]), facts), NO_PICTURES).decode()
    assert html.index("<code>patient_pattern</code>") < html.index("What was found")


def test_hostile_texts_are_only_text():
    rows = [
        quarantined(0, HOSTILE, HOSTILE, patient_id=HOSTILE, run_id=HOSTILE),
        repaired(1, HOSTILE, patient_id=HOSTILE),
    ]
    facts = {**NEEDED, HOSTILE: {HOSTILE: [HOSTILE]}}
    picture = Picture(HOSTILE, np.zeros((4, 4, 3), np.uint8))
    html = render_report(build_report(table(rows), facts), ReportPictures([picture], [picture])).decode()
    reader = Reader(html)
    assert "<script" not in html
    assert reader.text.count(HOSTILE) >= 6
    assert [attributes["alt"] for tag, attributes in reader.tags if tag == "img"] == [HOSTILE, HOSTILE]
    assert not {"onerror", "onload"} & {name for _, attributes in reader.tags for name in attributes}


@pytest.mark.parametrize("rows", [[], [item(0)], [unopened(0, patient_id=None, run_id=None)]])
def test_report_of_all_or_nothing(rows):
    report = build_report(table(rows), FACTS)
    is_used = rows == [item(0)]
    assert (report["samples_per_patient"] is not None) == is_used
    assert (report["foreground"] is not None) == is_used
    text = Reader(render_report(report, NO_PICTURES).decode()).text
    assert ("Nothing was wrong" in text) == (is_used or not rows)
    assert text.count("No samples to count.") == (1 if is_used else 2)
    assert "There is no sample to show." in text


def test_what_corrections_changed_is_told():
    told = {"annotations_sha256": ["a" * 64], "predicted_by": "octa@0123456789ab"}
    rows = [
        item(0, sample_id="s0", **told, correction_dice=1.0, lead_time_s=60.0),
        item(1, sample_id="s1", **told, correction_dice=0.8, lead_time_s=180.0),
        item(2, sample_id="s2", **told, correction_dice=None, lead_time_s=None),
        item(3, sample_id="s3", annotations_sha256=["b" * 64], lead_time_s=600.0),
        item(4, sample_id="s4"),
    ]
    summary = summarize_corrections(table(rows).to_pylist())
    (model,) = summary["by_model"]
    assert (model["images"], model["unchanged"], model["not_compared"]) == (3, 1, 1)
    assert model["dice"]["median"] == pytest.approx(0.9)
    assert model["minutes"] == {"known": 2, "total": 4.0, "median": 2.0}
    assert summary["from_scratch"] == {"images": 1, "minutes": {"known": 1, "total": 10.0, "median": 10.0}}
    assert [*describe_corrections(summary)] == [
        "corrections of octa@0123456789ab: 3 images, Dice of prediction and correction 0.900 (median), 1 left as they "
        "were, 1 cannot be compared; 2.0 minutes an image (median of 2), 4 in all",
        "labels drawn from nothing: 1 images; 10.0 minutes an image (median of 1), 10 in all",
    ]
    report = build_report(table(rows), {**FACTS, "corrections": summary})
    assert [each["sample_id"] for each in report["corrections"]] == ["s1", "s0", "s2"]
    page = render_report(report, NO_PICTURES).decode()
    assert "What the corrections changed" in page
    assert "0.900 (0.810 to 0.990)" in page
    assert (
        "What the corrections changed" not in render_report(build_report(table(rows[4:]), FACTS), NO_PICTURES).decode()
    )
