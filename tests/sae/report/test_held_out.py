"""Explanations on all of the held-out text, and features of ultra-low density: what the report says of them, and of damaged ones."""

import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from planted_records import DENSITY_CLUSTERS, HELD_OUT_MEDIANS, alter_summary, write_evaluation
from planted_run import VOCABULARY, write_dictionary, write_interpretation

from sae.errors import InputError
from sae.report.gather import gather
from sae.report.held_out import held_out_rows
from sae.report.numbers import groups_of_numbers
from sae.report.page import write_report
from sae.storage import Place

SUMMARY = "interpretation/topk/summary.json"


@pytest.fixture
def small_run(tmp_path):
    """One interpreted source and no more."""
    run = Place(tmp_path)
    write_interpretation(run, "topk", 0.7, 4)
    return run


def evaluated(tmp_path, clusters):
    """The rows on sparsity of a run of which one evaluation holds `clusters`."""
    run = Place(tmp_path)
    write_dictionary(run.child("dictionaries", "relu"), "relu", 0)
    write_evaluation(run, "relu", 0, density_clusters=clusters)
    group = next(group for group in groups_of_numbers(gather(run)) if group.title == "How sparse the features are")
    return {row.name: (row.cells[0].value, row.cells[0].interval) for row in group.figures}


class TestMedians:
    def test_a_row_each_source_in_the_order_of_the_columns(self, run):
        rows = held_out_rows(gather(run))
        assert [row.name for row in rows] == ["topk", "relu", "neurons", "random directions"]
        assert [cell.value for cell in rows[0].cells] == ["0.760", "0.330", "0.460", "0.410", "0.670", "0.210", "–"]

    def test_a_summary_with_part_of_them_is_refused(self, small_run):
        medians = {key: value for key, value in HELD_OUT_MEDIANS.items() if key != "firing_f1"}
        summary = small_run.get_sealed(SUMMARY) | {"held_out_medians": medians}
        small_run.put_sealed(SUMMARY, summary)
        with pytest.raises(InputError, match=r"topk/summary\.json is not .*: field held_out_medians\.firing_f1 is missing"):
            write_report(small_run, token_texts=VOCABULARY)


class TestColumns:
    def put(self, run, table):
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink)
        run.put("interpretation/topk/features.parquet", sink.getvalue())
        alter_summary(run, "topk")

    @pytest.mark.parametrize("column", ["firing_f1", "similar"])
    def test_a_table_without_one_of_them_is_refused(self, small_run, column):
        table = pq.read_table(pa.BufferReader(small_run.get("interpretation/topk/features.parquet")))
        self.put(small_run, table.drop_columns([column]))
        with pytest.raises(InputError, match=f"features.parquet does not have the columns of this version: column '{column}' is missing"):
            gather(small_run)

    @pytest.mark.parametrize("column", ["firing_f1", "co_firing"])
    def test_a_table_with_something_else_in_one_is_refused(self, small_run, column):
        table = pq.read_table(pa.BufferReader(small_run.get("interpretation/topk/features.parquet")))
        place = table.schema.get_field_index(column)
        self.put(small_run, table.set_column(place, column, pa.array(["?"] * len(table))))
        with pytest.raises(InputError, match=f"column '{column}' is string, expected"):
            gather(small_run)


class TestClusters:
    def test_their_share_and_medians_stand_beside_those_of_the_others(self, tmp_path):
        rows = evaluated(tmp_path, DENSITY_CLUSTERS)
        assert rows["Ultra-low-density cluster"] == (f"{100 * 128 / 4096:.2f} %", "128 features")
        assert rows["Median density in the cluster"] == ("2e−07", "others 0.0021")
        assert rows["Median encoder bias in the cluster"] == ("−1.250", "others −0.500")
        assert rows["Median encoder–decoder cosine in the cluster"] == ("0.120", "others 0.820")

    def test_one_mode_is_said_in_a_word(self, tmp_path):
        rows = evaluated(tmp_path, None)
        assert rows["Ultra-low-density cluster"] == ("none", "")
        assert not [name for name in rows if name.endswith("in the cluster")]

    @pytest.mark.parametrize("damaged", [{}, [], {"ultra_low": DENSITY_CLUSTERS["ultra_low"]}, DENSITY_CLUSTERS | {"others": {"num_features": 3}}])
    def test_part_of_them_is_refused(self, tmp_path, damaged):
        evaluated(tmp_path, None)
        run = Place(tmp_path)
        run.put_sealed("evaluation/relu.json", run.get_sealed("evaluation/relu.json") | {"density_clusters": damaged})
        with pytest.raises(InputError, match=r"relu\.json is not what this version writes: .*density_clusters"):
            gather(run)

    def test_a_report_shows_both_dictionaries_in_a_row(self, run):
        write_report(run, output_key="clusters.html", token_texts=VOCABULARY)
        text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", run.get("clusters.html").decode()))
        assert re.search(r"Ultra-low-density cluster .{0,140} none 3\.12 % 128 features", text)
