"""The one configuration of a run, composed of what every stage declares beside itself, and where each stage leaves its output."""

from pydantic import Field

from sae.config import Config, Location
from sae.corpus.sources import CorpusConfig
from sae.evaluation.evaluate import EvaluationConfig
from sae.interpretation.interpret import InterpretationConfig
from sae.pretraining import PretrainingConfig
from sae.storage import Place, sha256_hex, to_json
from sae.store.harvest import HarvestConfig
from sae.subject.model import SubjectConfig
from sae.training.config import TrainingConfig
from services.cluster.capacity import PlanConfig
from services.cluster.config import ClusterConfig
from services.training.options import TrainerOptions


class RunConfig(Config):
    """One run: from text to a report. Every verb reads the sections it needs."""

    output: Location = Field(description="directory of the run: a path or any fsspec URL (s3://bucket/prefix)")
    store: Location | None = Field(None, description="URL of the activation store; null puts it into the run's directory")
    subject: SubjectConfig = Field(SubjectConfig(), description="the subject model")
    pretraining: PretrainingConfig = Field(PretrainingConfig(), description="how `pretrain` and `--from-scratch` make a subject model")
    corpus: CorpusConfig = Field(CorpusConfig(), description="the text")
    harvest: HarvestConfig = Field(HarvestConfig(), description="which activations are kept")
    training: TrainingConfig = Field(TrainingConfig(), description="the dictionaries")
    trainer: TrainerOptions = Field(TrainerOptions(), description="the training worker")
    evaluation: EvaluationConfig = Field(EvaluationConfig(), description="measurement on held-out text")
    interpretation: InterpretationConfig = Field(InterpretationConfig(), description="explanations and their scores")
    cluster: ClusterConfig = Field(ClusterConfig(), description="where it runs")
    plan: PlanConfig = Field(PlanConfig(), description="prices and bandwidths, for `monosem plan` alone")

    @property
    def place(self) -> Place:
        """The run's directory."""
        return Place(self.output)

    @property
    def corpus_url(self) -> str:
        """Where the packed sequences lie."""
        return f"{self.output}/corpus"

    @property
    def store_url(self) -> str:
        """Where the activations lie."""
        return self.store or f"{self.output}/store"

    @property
    def hookpoint(self) -> str:
        """The hookpoint that dictionaries are trained on: the first one harvested."""
        return self.harvest.hookpoints[0]

    @property
    def dictionary_urls(self) -> dict[str, str]:
        """Where each dictionary lies, by name."""
        return {dictionary.name: f"{self.output}/dictionaries/{dictionary.name}" for dictionary in self.training.dictionaries}

    @property
    def other_text(self) -> Place:
        """Where the evaluation on `evaluation.text` goes, with a corpus of its own for each text."""
        return self.place.child("other_text", sha256_hex(to_json(self.evaluation.text))[:8])
