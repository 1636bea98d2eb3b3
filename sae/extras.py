"""Optional packages, and the extra of the installation that brings each."""

EXTRAS = {
    "adlfs": "azure",
    "aiobotocore": "s3",
    "aiohttp": "serve",
    "botocore": "s3",
    "datasets": "models",
    "gcsfs": "gcs",
    "httpx2": "explain",
    "matplotlib": "report",
    "ray": "cluster",
    "s3fs": "s3",
    "sklearn": "models",
    "tensorboard": "tensorboard",
    "tokenizers": "models",
    "transformer_lens": "models",
    "transformers": "models",
    "wandb": "wandb",
}


def installation_advice(error: ImportError) -> str | None:
    """Say which extra brings a package that could not be imported; None for a package of no extra.

    Example:
        >>> installation_advice(ModuleNotFoundError("No module named 'ray'", name="ray"))
        "this needs the package ray, which is not installed. Run: pip install 'monosem[cluster]'"
    """
    package = (error.name or "").partition(".")[0]
    if package not in EXTRAS:
        return None
    return f"this needs the package {package}, which is not installed. Run: pip install 'monosem[{EXTRAS[package]}]'"
