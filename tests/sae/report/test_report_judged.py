"""What a report adds to a run that was compared: with noise, with a language model, with people, with labels; absent where they are."""

import re
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from planted_records import HOSTILE, alter_summary, write_evaluation
from planted_run import HOSTILE_EXPLANATION, write_dictionary, write_ratings, write_run, write_words

from jobs.show import show_run
from sae.errors import CorruptObjectError, InputError
from sae.report.comparisons import comparisons
from sae.report.gather import gather
from sae.report.glossary import glossary, glossary_markdown
from sae.report.page import write_report
from sae.report.story import findings
from sae.report.words import words_of
from sae.storage import Place, sha256_hex

NOON = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)


@pytest.fixture(scope="module")
def page(judged_run, token_texts):
    write_report(judged_run, token_texts=token_texts, written=NOON)
    return judged_run.get("report.html").decode()


@pytest.fixture(scope="module")
def text(page):
    return text_of(page)


def text_of(page):
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page))


@pytest.fixture(scope="module")
def cards(page, data_of):
    return {source["name"]: {feature["i"]: feature for feature in source["features"]} for source in data_of(page)["sources"]}


class TestNoise:
    def test_a_difference_is_that_of_medians_and_noise_where_its_interval_holds_zero(self, judged_run):
        record = gather(judged_run)
        table = {row.name: row for row in comparisons(record)[0].rows}
        scores = {source.name: source.scores() for source in record.sources}
        assert comparisons(record)[0].dictionaries == ["relu", "topk"] or comparisons(record)[0].dictionaries == ["topk", "relu"]
        place = comparisons(record)[0].dictionaries.index("topk")
        against = table["random directions"]
        assert float(against.cells[place].value) == pytest.approx(np.median(scores["topk"]) - np.median(scores["random_directions"]), abs=1e-3)
        assert not against.noise[place]
        assert table["topk on the shuffled model"].noise[place]
        assert table["topk on the shuffled model"].cells[place].value == "within noise"

    def test_the_first_lines_name_the_best_control_on_all_features_and_on_those_of_several_tokens(self, judged_run):
        record = gather(judged_run)
        [said] = [sentence for sentence in findings(record) if sentence.startswith("Explanations of topk")]
        parts = said.split("; of those that fire on several tokens, ")
        assert len(parts) == 2
        for part, single_token in zip(parts, (None, False), strict=True):
            medians = {source.label: np.median(source.scores(single_token)) for source in record.sources if source.control}
            best = max((label for label in medians if label != "neurons"), key=medians.get)
            assert f"{medians['neurons']:.3f} for neurons and {medians[best]:.3f} for {best}, the best of the other controls" in part

    def test_what_the_interpretation_compared_itself_is_taken(self, judged_run):
        row = {"dictionary": "topk", "source": "relu", "features": "all", "num": [9, 9], "difference": 0.25, "interval": [0.125, 0.375]}
        judged_run.put_sealed("interpretation/comparison.json", {"rows": [row | {"within_noise": False}], "tables": {}})
        try:
            table = comparisons(gather(judged_run))[0]
        finally:
            judged_run.delete("interpretation/comparison.json")
        cells = {row.name: dict(zip(table.dictionaries, row.cells, strict=True)) for row in table.rows}
        assert (cells["relu"]["topk"].value, cells["relu"]["topk"].interval) == ("+0.250", "+0.125 to +0.375")
        assert (cells["topk"]["relu"].value, cells["topk"]["relu"].interval) == ("−0.250", "−0.375 to −0.125")

    def test_controls_are_no_dictionaries(self, judged_run):
        kinds = {source.label: source.control for source in gather(judged_run).sources}
        assert kinds == {"topk": False, "relu": False, "neurons": True, "random directions": True, "topk on the shuffled model": True}


class TestWords:
    def test_a_card_has_the_sentence_its_scores_and_why_there_is_none(self, cards):
        topk = cards["topk"]
        explainer, sentence, outcome, scores, notes = topk[0]["l"][0]
        assert (explainer, sentence, outcome) == ("highlights", HOSTILE_EXPLANATION, "answered")
        assert dict(scores) == {"simulation, Spearman": 0.4, "simulation, Pearson": 0.5, "detection": 0.8, "fuzzing": 0.7}
        assert notes == "2 of 60 answers unreadable"
        assert topk[3]["l"] == [["highlights", None, "refused", [], "no explanation"]]
        assert "l" not in cards["relu"][0]

    def test_the_table_names_chance_model_and_cost(self, text):
        assert "Made and scored by planted-model in 500 requests, 100,000 tokens, $0.25. 2.00 % of the answers" in text
        assert "detection (chance 0.5)" in text
        assert "next tokens (chance" not in text  # no feature has that score

    def test_a_table_without_a_column_is_refused(self, tmp_path):
        run = write_run(Place(tmp_path), num_features=3)
        write_words(run, "topk", 3)
        key = "interpretation/topk/llm_explanations.parquet"
        sink = pa.BufferOutputStream()
        pq.write_table(pq.read_table(pa.BufferReader(run.get(key))).drop_columns(["fuzzing_accuracy"]), sink)
        run.put(key, sink.getvalue())
        alter_summary(run, "topk")
        [topk] = [source for source in gather(run).sources if source.name == "topk"]
        with pytest.raises(InputError, match="column 'fuzzing_accuracy' is missing"):
            words_of(run, topk, [0])


class TestPeople:
    def test_what_was_said_stands_beside_the_feature(self, judged_run, cards):
        deck = judged_run.get_json("ratings/deck.json")
        card = deck["cards"][0]
        said = cards[card["source"]][card["feature"]]["v"]
        assert [(rater, words) for rater, _, words in said] == [("anna", HOSTILE), ("ben", HOSTILE)]
        assert said[0][1] - said[1][1] == 2

    def test_the_planted_agreement_is_found(self, text):
        assert "explanation score 50" in text
        assert re.search(r"anna and ben 20 1\.000 1\.000 to 1\.000 1\.000 1\.000 to 1\.000 2\.00", text)

    def test_show_prints_it(self, judged_run):
        shown = show_run(judged_run)
        assert "ratings: anna 50 of 50, ben 20 of 50" in shown
        assert re.search(r"people and explanation score, all sources: Pearson 0\.9\d\d \[0\.9\d\d, 0\.9\d\d\], Spearman 0\.9", shown)
        assert "anna and ben: Pearson 1.000 [1.000, 1.000], 2.00 points apart, n = 20" in shown

    def test_ratings_of_another_interpretation_are_not_compared_and_the_report_says_so(self, tmp_path, token_texts):
        run = write_run(Place(tmp_path), num_features=4)
        write_ratings(run)
        run.put("interpretation/relu/features.parquet", run.get("interpretation/topk/features.parquet"))
        alter_summary(run, "relu")
        write_report(run, token_texts=token_texts)
        assert "The ratings of this run are not compared: relu was interpreted anew" in text_of(run.get("report.html").decode())


class TestBreakdown:
    def test_the_worst_predictions_are_shown_as_text(self, page, text):
        assert "The worst 1 % are 1,296 predictions: each changes by at least 1.250 nats" in text
        assert "import &lt;/script&gt;&lt;img" in page
        assert "Share of KL in the worst 1 %" in text

    def test_a_table_without_a_column_is_refused(self, tmp_path):
        run = Place(tmp_path)
        write_dictionary(run.child("dictionaries", "relu"), "relu", 0)
        write_evaluation(run, "relu", 0)
        other = run.get("evaluation/relu.worst.arrow")
        run.put("evaluation/relu.positions.arrow", other)
        with pytest.raises(CorruptObjectError, match=r"relu\.positions\.arrow has the digest .*, and .*relu\.json names"):
            write_report(run)
        report = run.get_sealed("evaluation/relu.json")
        run.put_sealed("evaluation/relu.json", report | {"tables": report["tables"] | {"relu.positions.arrow": sha256_hex(other)}})
        with pytest.raises(InputError, match=r"relu\.positions\.arrow does not have the columns of this version: column 'predictions' is missing"):
            write_report(run)

    def test_a_damaged_table_is_named(self, tmp_path):
        run = Place(tmp_path)
        write_dictionary(run.child("dictionaries", "relu"), "relu", 0)
        write_evaluation(run, "relu", 0)
        run.put("evaluation/relu.worst.arrow", b"ARROW1 no more")
        report = run.get_sealed("evaluation/relu.json")
        digests = report["tables"] | {"relu.worst.arrow": sha256_hex(b"ARROW1 no more")}
        run.put_sealed("evaluation/relu.json", report | {"tables": digests})
        with pytest.raises(InputError, match=r"relu\.worst\.arrow is not a whole table"):
            write_report(run)


class TestConcepts:
    def test_the_best_units_stand_side_by_side_with_a_verdict(self, text):
        assert "hebrew 0.670 0.710 0.690 to 0.730 −17 0.88 / 0.97 / –" in text
        assert "relu best one 0.840 0.830 to 0.850 0.130 −0.020 to 0.150 within noise" in text
        assert "topk best one 0.930 0.920 to 0.940 0.220 0.070 to 0.240 higher" in text

    def test_a_report_of_another_release_is_refused(self, tmp_path):
        run = Place(tmp_path)
        write_dictionary(run.child("dictionaries", "relu"), "relu", 0)
        run.put_sealed("concepts/concepts.json", {"labels": []})
        with pytest.raises(InputError, match=r"concepts\.json is not what this version writes: field sources is missing"):
            write_report(run)


class TestGlossary:
    def test_every_number_of_the_tables_is_in_it(self, page):
        named = {each.name for _, entries in glossary() for each in entries}
        rows = set(re.findall(r'<th scope="row" title="[^"]*">([^<]+)<span class="says">', page)) - {"Architecture"}
        assert rows
        assert rows <= named

    def test_every_entry_says_what_how_and_where_it_comes_from_where_it_is_not_ours(self):
        entries = [each for _, entries in glossary() for each in entries]
        assert all(each.name and each.says for each in entries)
        assert sum(bool(each.formula) for each in entries) >= len(entries) - 3  # three losses are said by their row
        assert len({each.name for each in entries}) == len(entries)

    def test_as_markdown_each_is_one_row_of_four_cells(self):
        rows = glossary_markdown().splitlines()
        assert {row.replace("\\|", "").count("|") for row in rows} == {5}


class TestSafety:
    def test_hostile_words_make_no_element(self, page):
        assert "<img" not in page
        assert page.count("</script>") == 2
        assert HOSTILE not in page

    def test_it_is_the_same_bytes_again(self, judged_run, page, token_texts):
        write_report(judged_run, output_key="again.html", token_texts=token_texts, written=NOON)
        assert judged_run.get("again.html").decode() == page
        ids = re.findall(r'\sid="([^"]+)"', page)
        assert len(ids) == len(set(ids))
