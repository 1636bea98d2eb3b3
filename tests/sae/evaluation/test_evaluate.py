"""Evaluation as a whole: a pool of workers, the same figures as one process, and finished reports left alone."""

import numpy as np
import pyarrow as pa
import pytest
import torch

from sae.architectures.config import ReluConfig, TopKConfig
from sae.architectures.registry import build_dictionary
from sae.checkpoint import save_dictionary
from sae.errors import ConfigError, HookpointError, InputError, PlanError, WidthError
from sae.evaluation.evaluate import EvaluationConfig, EvaluationJob, EvaluationWorker, density_quantile, evaluate, merge_parts
from sae.evaluation.passes import evaluate_sequences
from sae.evaluation.sparsity import DensityHistogram
from sae.execution import InProcess, PoolOptions
from sae.storage import Place
from sae.store.manifest import StorePlan, finish_store, start_store
from sae.store.reader import Store
from sae.store.writer import write_shard
from sae.subject.model import Subject, SubjectConfig
from services.pool.ray_pool import RayPool

MLP = "blocks.0.mlp.hook_post"
CONFIG = EvaluationConfig(num_sequences=20, sequences_per_forward=4, sequences_per_task=8, pool=PoolOptions(num_cpus=0.5))


@pytest.fixture(scope="module")
def subject(tiny_subject_directory):
    return Subject.load(SubjectConfig(model=str(tiny_subject_directory)))


def make_store(place, subject, corpus, **changes):
    plan = StorePlan(
        subject=subject.config.model, subject_digest=subject.digest, corpus_digest=corpus.manifest.digest, context_length=32, hookpoints={MLP: 32},
        num_sequences=8, sequences_per_shard=8, special_token_ids=sorted(subject.tokenizer.special_token_ids),
    ).model_copy(update=changes)  # fmt: skip
    tokens = corpus.sequences("train", 0, 8)
    start_store(place, plan)
    write_shard(place, plan, 0, tokens, subject.activations(torch.from_numpy(tokens.astype(np.int64)), [MLP]))
    finish_store(place, plan)
    return place.url


@pytest.fixture(scope="module")
def store_url(tmp_path_factory, subject, tiny_corpus):
    return make_store(Place(tmp_path_factory.mktemp("store")), subject, tiny_corpus)


def some_dictionary(config, place, d_in=32, **metadata):
    dictionary = build_dictionary(config, d_in)
    dictionary.initialize(torch.zeros(d_in), torch.Generator().manual_seed(config.d_sae))
    save_dictionary(place, dictionary, {"hookpoint": MLP, **metadata})
    return place.url


@pytest.fixture(scope="module")
def dictionary_urls(tmp_path_factory):
    root = Place(tmp_path_factory.mktemp("dictionaries"))
    return {
        "relu": some_dictionary(ReluConfig(d_sae=48), root.child("relu")),
        "topk": some_dictionary(TopKConfig(d_sae=64, k=4), root.child("topk")),
    }


@pytest.fixture
def run(tiny_corpus, store_url, dictionary_urls, subject, tmp_path):
    """Evaluate into one directory, with any argument changed."""

    def evaluated(config=CONFIG, executor=None, **changes):
        arguments = {
            "corpus_url": tiny_corpus.place.url,
            "store_url": store_url,
            "dictionary_urls": dictionary_urls,
            "output_url": str(tmp_path / "out"),
        }
        return evaluate(config, subject.config, **(arguments | changes), executor=executor)

    return evaluated


class Recorder:
    """A monitor that remembers what it was told."""

    def __init__(self):
        self.told = []

    def add(self, name, amount, **labels):
        self.told.append((name, amount, labels))

    set = add

    def progress(self, stage, done, total):
        self.told.append((stage, done, total))


def test_what_is_reported_is_what_the_worker_measured(run, subject, tiny_corpus, store_url, dictionary_urls, tmp_path):
    monitor = Recorder()
    reports = run(CONFIG, InProcess(monitor))
    worker = EvaluationWorker(EvaluationJob(subject.config, tiny_corpus.place.url, store_url, MLP, dictionary_urls, sequences_per_forward=20))
    alone = worker.run((0, 20))
    for name, report in reports.items():
        downstream, sparsity = alone[name].downstream.figures(seed=0), alone[name].sparsity.figures()
        for figure in ("loss_recovered_zero", "loss_recovered_zero_interval", "loss_recovered_mean", "loss_recovered_mean_interval"):
            expected = getattr(downstream, figure)  # null for this untrained model where ablation costs it nothing
            assert getattr(report, figure) == (None if expected is None else pytest.approx(expected, rel=1e-3))
        assert report.not_defined == downstream.not_defined
        assert report.cross_entropy.spliced == pytest.approx(downstream.cross_entropy.spliced, rel=1e-6)
        assert report.fvu == pytest.approx(alone[name].reconstruction.figures().fvu, rel=1e-6)
        assert (report.num_tokens, report.l0, report.density_histogram) == (sparsity.num_tokens, sparsity.l0, sparsity.density_histogram)
        densities = pa.ipc.open_file((tmp_path / "out" / f"{name}.density.arrow").read_bytes()).read_all()
        assert densities["tokens_fired"].to_pylist() == alone[name].sparsity.fired.tolist()
    assert (reports["topk"].k, reports["topk"].d_sae, reports["relu"].k) == (4, 64, None)
    assert sum(amount for name, amount, _ in monitor.told if name == "monosem_evaluation_tokens_total") == 20 * 32
    assert ("evaluate/tokens", 640, 640) in monitor.told
    quantiles = {(labels["dictionary"], labels["share"]) for name, _, labels in monitor.told if name == "monosem_evaluation_density"}
    assert {quantile for _, quantile in quantiles} == {"0.1", "0.5", "0.9"}
    exported = {(labels["dictionary"], labels["ablation"]) for name, _, labels in monitor.told if name == "monosem_evaluation_loss_recovered"}
    defined = {(name, ablation) for name in reports for ablation in ("zero", "mean") if f"loss_recovered_{ablation}" not in reports[name].not_defined}
    assert exported == defined
    check_finished_reports_are_left_alone(run, tmp_path / "out", reports)


def check_finished_reports_are_left_alone(run, output, reports):
    """No worker starts for reports that are there, and another seed or another text is another evaluation."""
    before = {path.name: path.stat().st_mtime_ns for path in output.iterdir()}
    tables = ("density.arrow", "json", "losses.arrow", "positions.arrow", "worst.arrow")
    assert sorted(before) == sorted(["saebench", *(f"{name}.{table}" for name in ("relu", "topk") for table in tables)])
    assert run(CONFIG.model_copy(update={"num_workers": 1, "sequences_per_task": 5})) == reports
    assert {path.name: path.stat().st_mtime_ns for path in output.iterdir()} == before
    with pytest.raises(PlanError, match="num_sequences 20; now num_sequences 19"):
        run(CONFIG.model_copy(update={"num_sequences": 19}))


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_this_process_and_three_workers_of_a_cluster_leave_the_same_bytes(run, dictionary_urls, tmp_path):
    outputs = {InProcess(): tmp_path / "here", RayPool(): tmp_path / "cluster"}
    one = {"topk": dictionary_urls["topk"]}
    for executor, output in outputs.items():
        run(CONFIG.model_copy(update={"num_workers": 3}), executor, dictionary_urls=one, output_url=str(output))
    tables = ["json", *(f"{table}.arrow" for table in ("density", "losses", "positions", "worst"))]
    found = [[(output / f"topk.{table}").read_bytes() for table in tables] for output in outputs.values()]
    assert found[0] == found[1]


def test_mean_ablation_uses_the_mean_of_the_store(subject, tiny_corpus, store_url, dictionary_urls):
    worker = EvaluationWorker(EvaluationJob(subject.config, tiny_corpus.place.url, store_url, MLP, dictionary_urls, sequences_per_forward=4))
    tokens = torch.from_numpy(tiny_corpus.sequences("held_out", 0, 4).astype(np.int64))
    mean = torch.tensor(Store(Place(store_url)).statistics(MLP).mean)
    expected = evaluate_sequences(subject, MLP, worker.dictionaries, mean, tokens, 0)
    assert worker.run((0, 4))["relu"].downstream.figures(0) == expected["relu"].downstream.figures(0)


def test_ranges_add_up_whatever_their_size(subject, tiny_corpus, store_url, dictionary_urls):
    worker = EvaluationWorker(EvaluationJob(subject.config, tiny_corpus.place.url, store_url, MLP, dictionary_urls, sequences_per_forward=4))
    parts = merge_parts([worker.run((0, 4)), worker.run((4, 12))])["topk"]
    whole = worker.run((0, 12))["topk"]
    assert parts.sparsity.fired.tolist() == whole.sparsity.fired.tolist()
    assert parts.downstream.figures(0).model_dump(exclude={"kl_divergence"}) == whole.downstream.figures(0).model_dump(exclude={"kl_divergence"})


def test_a_dictionary_of_another_width_is_refused(run, tmp_path):
    wide = some_dictionary(ReluConfig(d_sae=8), Place(tmp_path / "wide"), d_in=16)
    with pytest.raises(WidthError, match=r"'wide' has d_in 16, but 'blocks\.0\.mlp\.hook_post' is 32 wide"):
        run(dictionary_urls={"wide": wide})


def test_dictionaries_of_several_hookpoints_are_refused(run, dictionary_urls, tmp_path):
    other = some_dictionary(ReluConfig(d_sae=8), Place(tmp_path / "other"), hookpoint="blocks.0.hook_resid_post")
    with pytest.raises(ConfigError, match=r"several hookpoints \(relu: blocks.*other: blocks\.0\.hook_resid_post\)"):
        run(dictionary_urls={"relu": dictionary_urls["relu"], "other": other})


def test_a_transcoder_of_another_target_is_refused(run, tmp_path):
    """The store knows no mean of what it reconstructs; or it does not say what that is."""
    place = Place(tmp_path / "transcoder")
    save_dictionary(place, build_dictionary(ReluConfig(d_sae=8), 32, 16), {"hookpoint": MLP, "target_hookpoint": "blocks.0.hook_mlp_out"})
    with pytest.raises(HookpointError, match=r"blocks\.0\.hook_mlp_out"):
        run(dictionary_urls={"transcoder": place.url})
    save_dictionary(place, build_dictionary(ReluConfig(d_sae=8), 32, 16), {"hookpoint": MLP})
    with pytest.raises(InputError, match="does not say what it reconstructs"):
        run(dictionary_urls={"transcoder": place.url})


def test_a_dictionary_without_a_hookpoint_is_refused(run, tmp_path):
    nowhere = some_dictionary(ReluConfig(d_sae=8), Place(tmp_path / "nowhere"), hookpoint=None)
    with pytest.raises(InputError, match="does not say which hookpoint"):
        run(dictionary_urls={"nowhere": nowhere})


def test_a_store_of_another_subject_is_refused(subject, tiny_corpus, dictionary_urls, tmp_path):
    url = make_store(Place(tmp_path / "store"), subject, tiny_corpus, subject_digest="0" * 64)
    with pytest.raises(PlanError, match=r"made with a subject of the digest '000000000000', not with .*: evaluate with the same model and dtype"):
        EvaluationWorker(EvaluationJob(subject.config, tiny_corpus.place.url, url, MLP, dictionary_urls, sequences_per_forward=4))


def test_a_dictionary_of_another_subject_or_store_is_refused(run, tmp_path, subject, store_url):
    place, store = Place(tmp_path / "stranger"), Store(Place(store_url))
    own = {"subject_digest": subject.digest, "store_digest": store.manifest.digest}
    for changes, message in (
        ({"subject_digest": "17518c8c"}, f"subject '17518c8c', .*made with '{subject.digest[:12]}'"),
        ({"store_digest": "0"}, "store '0'"),
    ):
        some_dictionary(ReluConfig(d_sae=8), place, **(own | changes))
        with pytest.raises(PlanError, match=message):
            run(dictionary_urls={"stranger": place.url})


def test_another_corpus_than_the_store_s_is_refused(subject, tiny_corpus, dictionary_urls, tmp_path):
    url = make_store(Place(tmp_path / "store"), subject, tiny_corpus, corpus_digest="0" * 64)
    with pytest.raises(PlanError, match=f"another corpus .'000000000000'. than .*{tiny_corpus.manifest.digest[:12]}"):
        evaluate(CONFIG, subject.config, tiny_corpus.place.url, url, dictionary_urls, str(tmp_path / "out"))


def test_another_corpus_that_is_asked_for_is_measured(subject, tiny_corpus, dictionary_urls, tmp_path):
    url = make_store(Place(tmp_path / "store"), subject, tiny_corpus, corpus_digest="0" * 64)
    config = CONFIG.model_copy(update={"text": ["other.txt"]})
    reports = evaluate(config, subject.config, tiny_corpus.place.url, url, dictionary_urls, str(tmp_path / "out"))
    assert {report.inputs.corpus_digest for report in reports.values()} == {tiny_corpus.manifest.digest}


def test_nothing_to_evaluate_is_an_error(run):
    with pytest.raises(ConfigError, match="no dictionary"):
        run(dictionary_urls={})


def test_quantiles_of_the_density_are_read_off_the_histogram():
    histogram = DensityHistogram(log10_edges=[-3.0, -2.0, -1.0, 0.0], counts=[4, 3, 1], never=2)
    assert [density_quantile(histogram, share) for share in (0.1, 0.2, 0.5, 0.9, 1.0)] == [0.0, 0.0, 1e-2, 1e-1, 1.0]
