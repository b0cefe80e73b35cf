"""Retrieval data for every part of teva: datasets, recipes, artifacts, embeddings, runs. Importing it is cheap."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .lazy import attributes

if TYPE_CHECKING:
    from .artifact import Artifact
    from .conversion import convert
    from .dataset import Dataset, DatasetCard
    from .embedding_writer import EmbeddingWriter
    from .embeddings import Embeddings
    from .errors import ArtifactError, DataError, MissingExtraError, RecipeError, TevaError
    from .negatives import mine_negatives
    from .pair import ArtifactPair, load_artifact
    from .pieces import Media
    from .plan import BatchPlan
    from .recipe import Recipe, load_recipe
    from .records import Document, Query
    from .rendering import Renderer
    from .runs import read_qrels, read_run, write_qrels, write_run
    from .schema import SCHEMA
    from .showing import training_example
    from .stats import statistics
    from .store import CorpusStore, QueryStore
    from .validation import validate

    __version__: str

__all__ = [
    "SCHEMA",
    "Artifact",
    "ArtifactError",
    "ArtifactPair",
    "BatchPlan",
    "CorpusStore",
    "DataError",
    "Dataset",
    "DatasetCard",
    "Document",
    "EmbeddingWriter",
    "Embeddings",
    "Media",
    "MissingExtraError",
    "Query",
    "QueryStore",
    "Recipe",
    "RecipeError",
    "Renderer",
    "TevaError",
    "__version__",
    "convert",
    "load_artifact",
    "load_recipe",
    "mine_negatives",
    "read_qrels",
    "read_run",
    "statistics",
    "training_example",
    "validate",
    "write_qrels",
    "write_run",
]

__getattr__, __dir__ = attributes(
    __name__,
    {
        "artifact": ("Artifact",),
        "conversion": ("convert",),
        "dataset": ("Dataset", "DatasetCard"),
        "embedding_writer": ("EmbeddingWriter",),
        "embeddings": ("Embeddings",),
        "errors": ("ArtifactError", "DataError", "MissingExtraError", "RecipeError", "TevaError"),
        "negatives": ("mine_negatives",),
        "pair": ("ArtifactPair", "load_artifact"),
        "pieces": ("Media",),
        "plan": ("BatchPlan",),
        "recipe": ("Recipe", "load_recipe"),
        "records": ("Document", "Query"),
        "rendering": ("Renderer",),
        "runs": ("read_qrels", "read_run", "write_qrels", "write_run"),
        "schema": ("SCHEMA",),
        "showing": ("training_example",),
        "stats": ("statistics",),
        "store": ("CorpusStore", "QueryStore"),
        "validation": ("validate",),
    },
)
