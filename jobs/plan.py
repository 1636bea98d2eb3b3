"""`monosem plan`: what a run will take on this machine or on a cluster, from its configuration and from rates."""

from collections.abc import Callable

from jobs.bench_rates import rates_of_bench
from jobs.checks import check_harvest, known_widths, short_text, text_tokens
from jobs.config import RunConfig
from jobs.estimates import check_estimates, this_machine
from jobs.loading import load_config
from jobs.memory import memory_of_stages
from jobs.rates import measured_rates
from jobs.stages import WHOLE_WAY
from sae.corpus.packing import Tokenizer
from sae.corpus.sources import CorpusConfig, documents
from sae.errors import ConfigError
from sae.subject.model import Subject, SubjectConfig
from services.cluster.capacity import Amounts, Costs, Crew, Estimate, Stage, estimate

ROW_OVERHEAD_BYTES = 16  # sequence_id, position, token_id
BYTES_PER_VALUE = {"float16": 2, "bfloat16": 2, "float32": 4}
SAMPLE_CHARACTERS = 2**18  # of text, tokenised to know how many tokens it has


def print_plan(path: str | None, overrides: list[str], bench: str | None, tell: Callable[[str], None]) -> None:
    """Print tokens, bytes, objects, time, money and memory of a run.

    Args:
        path: of the configuration.
        overrides: of its keys.
        bench: lines of `make bench`; None measures this machine.
        tell: called with each thing that is done, before it is done.

    Raises:
        UserError: the run could not begin (see `jobs.checks`), or its text has no bound.
        FailureError: measuring took too long.
    """
    config = load_config(path, overrides)
    check_estimates(config, WHOLE_WAY, this_machine(config), known_widths(config))
    check_harvest(config)
    subject = Subject.load(config.subject)
    config, remark = bounded_by_text(config, subject.tokenizer)
    widths = {hookpoint: subject.width(hookpoint) for hookpoint in config.harvest.hookpoints}
    amounts = count_amounts(config, widths)
    if bench:
        embedded = Subject.load(SubjectConfig()).num_parameters
        rates, source = rates_of_bench(bench, config, subject, widths, embedded), f"from {bench}, scaled to this model by its size"
    else:
        tell("measuring this machine: half a minute where it is idle, at most 150 s (with --rates FILE nothing is measured)")
        rates, source = measured_rates(config, widths, tell), "from rates measured just now on this machine, its workers beside each other"
    shared = config.trainer.parallel != "dictionaries" and config.trainer.num_workers > 1
    found = estimate(amounts, rates, crews(config), shared, config.plan)
    lines = [
        *describe_amounts(config, amounts, widths),
        *describe_time(found.stages, source),
        *describe_means(config, found, memory_of_stages(config, widths, subject)),
    ]
    print("\n".join([*lines, *remark]))


def bounded_by_text(config: RunConfig, tokenizer: Tokenizer) -> tuple[RunConfig, list[str]]:
    """The run with no more tokens than its local text has, and a remark where that is less than it asks for.

    Raises:
        InputError: the text cannot be read.
    """
    corpus = config.corpus
    if text_tokens(corpus) is None:
        return config, []
    density = _tokens_per_byte(corpus, tokenizer)
    tokens = text_tokens(corpus, density) or 0
    if corpus.train_tokens is not None and corpus.held_out_tokens is not None and corpus.train_tokens + corpus.held_out_tokens <= tokens:
        return config, []
    least = corpus.context_length
    held_out = max(least, int(tokens * corpus.held_out_fraction))
    changed = {
        "train_tokens": min(corpus.train_tokens or tokens, max(least, tokens - held_out)),
        "held_out_tokens": min(corpus.held_out_tokens or tokens, held_out),
    }
    remark = [f"  remark       {advice}"] if (advice := short_text(corpus, density)) else []
    return config.model_copy(update={"corpus": corpus.model_copy(update=changed)}), remark


def _tokens_per_byte(corpus: CorpusConfig, tokenizer: Tokenizer) -> float:
    """Tokens, with the one that begins a document, of each byte of the text, counted in its first documents."""
    count = size = 0
    for _, text in documents(corpus):
        part = text[: SAMPLE_CHARACTERS - size]
        count += 1 + len(tokenizer.encode([part])[0])
        size += len(part.encode())
        if size >= SAMPLE_CHARACTERS:
            break
    return count / max(1, size)


def count_amounts(config: RunConfig, widths: dict[str, int]) -> Amounts:
    """Tokens, vectors, bytes and objects of a run.

    Raises:
        ConfigError: the configuration does not bound its text, so nothing can be said beforehand.
    """
    if config.corpus.train_tokens is None or config.corpus.held_out_tokens is None:
        raise ConfigError("corpus.train_tokens and corpus.held_out_tokens are null (all the text): set both so that a plan can be made")
    length, harvest, budget = config.corpus.context_length, config.harvest, config.interpretation
    sequences = min(-(-config.corpus.train_tokens // length), harvest.num_sequences or 2**62)
    held_out = -(-config.corpus.held_out_tokens // length)
    # Every sequence loses its BOS; further special tokens within make the store a little smaller than planned.
    rows = sequences * min(harvest.tokens_per_sequence or length - 1, length - 1)
    sizes = {name: rows * (width * BYTES_PER_VALUE[harvest.dtype] + ROW_OVERHEAD_BYTES) for name, width in widths.items()}
    shards = -(-sequences // harvest.sequences_per_shard)
    sources = [dictionary.sae.d_sae for dictionary in config.training.dictionaries] + [widths[config.hookpoint]]
    sources += [budget.controls.num_features] * len(budget.controls.kinds)
    return Amounts(
        tokens=sequences * length,
        held_out_tokens=min(held_out, config.evaluation.num_sequences or held_out) * length,
        vectors=rows,
        epochs=config.training.epochs,
        store_bytes=sum(sizes.values()) + sequences * (4 * length + 8),
        train_bytes=sizes[config.hookpoint],
        objects=shards * (2 * len(widths) + 1) + 2,
        shards=shards,
        read_tokens=(min(budget.explanation_sequences, sequences) + min(budget.scoring_sequences, held_out)) * length,
        features=sum(min(size, budget.max_features or size) for size in sources),
    )


def crews(config: RunConfig) -> dict[str, Crew]:
    """The workers of every stage."""
    harvest, evaluation, interpretation, trainer = config.harvest, config.evaluation, config.interpretation, config.trainer
    trainers = trainer.num_workers if trainer.parallel != "dictionaries" else min(trainer.num_workers, len(config.training.dictionaries))
    return {
        "harvest": Crew(harvest.num_workers, harvest.pool.num_cpus, harvest.pool.num_gpus),
        "train": Crew(trainers, trainer.num_cpus or 1.0, trainer.num_gpus),
        "evaluate": Crew(evaluation.num_workers, evaluation.pool.num_cpus, evaluation.pool.num_gpus),
        "interpret": Crew(interpretation.num_workers, interpretation.pool.num_cpus, interpretation.pool.num_gpus),
    }


def describe_amounts(config: RunConfig, amounts: Amounts, widths: dict[str, int]) -> list[str]:
    """Describe what is read and written, every quantity with its unit."""
    return [
        f"plan of {config.output}",
        f"  text         {amounts.tokens:,} tokens to train on, {amounts.held_out_tokens:,} held out",
        f"  activations  {amounts.vectors:,} vectors at each of {', '.join(f'{name} ({width} wide)' for name, width in widths.items())}",
        f"  store        {_size(amounts.store_bytes)} ({config.harvest.dtype}), {amounts.objects:,} objects in {amounts.shards:,} shards",
        f"  dictionaries {', '.join(f'{d.name} ({d.sae.architecture}, {d.sae.d_sae:,} features)' for d in config.training.dictionaries)}",
    ]


def describe_time(stages: list[Stage], source: str) -> list[str]:
    """Describe the time of each stage, and its bottleneck."""
    lines = [f"  time, {source}:"]
    for stage in stages:
        crew = f"{stage.crew.workers} worker{'s' * (stage.crew.workers != 1)}"
        lines.append(f"    {stage.name:<10} {_duration(stage.seconds)}  {crew}; limited by {stage.limit}; {stage.rate}")
    slowest = max(stages, key=lambda stage: stage.seconds)
    return [*lines, f"    in all     {_duration(sum(stage.seconds for stage in stages))}  most of it {slowest.name}: {slowest.limit}"]


def describe_means(config: RunConfig, found: Estimate, memory: dict[str, float]) -> list[str]:
    """Requests, money and memory; `memory` holds the bytes of each stage."""
    largest = max(memory, key=lambda stage: memory[stage])
    each = ", ".join(f"{stage} {size / 2**30:.1f}" for stage, size in memory.items())
    shared = config.cluster.object_store_bytes / 2**30
    return [
        f"  requests     {found.puts:,} that write, {found.gets:,} that read (of an object store; receipts and ranges of 8 MiB)",
        f"  money        {_money(found.costs)}",
        f"  memory       about {memory[largest] / 2**30:.1f} GiB in {largest} ({each}), with {shared:.1f} of shared memory",
    ]


def _money(costs: Costs) -> str:
    if not costs.total:
        return "no prices given (plan.gpu_hour, plan.cpu_hour, plan.gb_month, plan.thousand_puts, plan.thousand_gets)"
    parts = {"GPUs": costs.gpus, "CPUs": costs.cpus, "storage": costs.storage, "requests": costs.requests}
    return f"{costs.total:,.2f} in all: {', '.join(f'{name} {amount:,.2f}' for name, amount in parts.items())}"


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.3g} TB"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:5.0f} s  "
    return f"{seconds / 60:5.1f} min" if seconds < 5400 else f"{seconds / 3600:5.1f} h  "
