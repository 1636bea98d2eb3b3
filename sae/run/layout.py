"""Keys of a run directory, each written here once.

::

    <run>/config.json                            the resolved configuration
    <run>/stages.json                            time, memory and outcome of each stage; versions and seeds
    <run>/corpus/                                packed tokens (`sae.corpus.packing`)
    <run>/store/                                 activations (`sae.store`), unless the configuration names another place
    <run>/dictionaries/<name>/                   weights, configuration, result and log of a dictionary (`sae.checkpoint`, `sae.training.records`)
    <run>/evaluation/<name>.json, <name>-*       figures and tables on held-out text (`sae.evaluation.report`)
    <run>/other_text/<digest>/                   corpus and evaluation of further text
    <run>/concepts/                              labels detected by features (`sae.concepts.report`)
    <run>/interpretation/<source>/               examples, explanations and scores of a dictionary, the neurons or a control
    <run>/interpretation/comparison.json         differences between sources with their intervals
    <run>/interpretation/vocabulary.json         text of every token
    <run>/summary.json                           the figures of the report, for programs
    <run>/report.html                            the report
"""

CONFIG_KEY = "config.json"
STAGES_KEY = "stages.json"
SUMMARY_KEY = "summary.json"  # of the run, and of each interpreted source
REPORT_KEY = "report.html"
CORPUS, STORE, DICTIONARIES, EVALUATION = "corpus", "store", "dictionaries", "evaluation"
OTHER_TEXT, CONCEPTS, INTERPRETATION = "other_text", "concepts", "interpretation"
