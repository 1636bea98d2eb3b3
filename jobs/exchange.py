"""`monosem export` and `monosem import`: dictionaries to and from the layouts of other libraries."""

import argparse


def export_verb(options: argparse.Namespace) -> None:
    """Write a dictionary in another library's layout, with a model card."""
    # Imported here: the command line reads this module's arguments for `--help`, which should not wait for torch.
    from sae.interoperability.exchange import export_dictionary
    from sae.interoperability.model_card import CardOptions
    from sae.storage import Place

    form = export_dictionary(Place(options.dictionary), options.format, Place(options.output), CardOptions(options.license))
    print(
        f"export: {form.d_in:,} → {form.d_sae:,} features ({form.rule}) in the layout of {options.format}, in {options.output}; README.md is its card"
    )


def import_verb(options: argparse.Namespace) -> None:
    """Read a dictionary in another library's layout and write it as ours."""
    from sae.interoperability.exchange import import_dictionary
    from sae.storage import Place

    form = import_dictionary(
        Place(options.source),
        Place(options.output),
        options.format,
        hookpoint=options.hookpoint,
        target_hookpoint=options.target_hookpoint,
        subject=options.model,
    )
    rule = f"({form.rule})" if form.k is None else f"({form.rule}), k {form.k}"
    print(f"import: {form.d_in:,} → {form.d_sae:,} features {rule}, in {options.output}; sae.load_dictionary opens it")
    print(*(f"import: {line}" for line in form.provenance.lines(form.is_transcoder)), sep="\n")


LAYOUTS = ("saelens", "dictionary_learning", "sparsify")


def export_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `export`."""
    parser.add_argument("dictionary", help="a trained dictionary, RUN/dictionaries/NAME: a path or URL")
    parser.add_argument("output", help="where it goes: an empty path or URL")
    parser.add_argument("--format", required=True, choices=LAYOUTS, help="whose layout")
    parser.add_argument(
        "--license", default="unknown", help="licence for the model card, as the hub names it (mit, apache-2.0, cc-by-4.0; default %(default)s)"
    )


def import_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `import`."""
    parser.add_argument("source", help="the directory another library wrote: a path or URL")
    parser.add_argument("output", help="where it goes: an empty path or URL")
    parser.add_argument("--format", choices=LAYOUTS, help="whose layout (default: told by its files)")
    parser.add_argument("--hookpoint", metavar="NAME", help="TransformerLens name of the activation it encodes, instead of what its files say")
    parser.add_argument("--target-hookpoint", metavar="NAME", help="of a transcoder: TransformerLens name of the activation it reconstructs")
    parser.add_argument("--model", metavar="NAME", help="name or path of the model whose activations it encodes")
