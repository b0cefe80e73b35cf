"""Probes: texts that show where runtimes differ, and the vectors that the trained model gave them.

The trainer stores them beside the artifact (``probes.json``) when it writes it, so that later, elsewhere, the vectors
of any runtime can be held against those of the model that was trained, and not merely against another reader of the
same files, which would repeat what is wrong in them.
"""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .errors import ArtifactError, DataError
from .files import write_json
from .layout import ROLES
from .pieces import Media, Piece
from .rendering import Renderer

logger = logging.getLogger(__name__)

PROBES_FILE = "probes.json"
PICTURES = "probes"  # the folder of an artifact with their pictures
VERSION = "1"
Vectors = NDArray[np.float32]


@dataclass(frozen=True)
class Probe:
    """A text, and how it is to be encoded.

    Attributes:
        role: "query" or "document".
        kind: what it is there for: short, long, truncated, limit (of exactly as many tokens as are allowed),
            nearly_empty, multilingual, code, picture.
        text: without prompt.
        prompt: whether the model's prompt for the role is put before it.
        image: a picture that stands before the text: a file within the artifact's directory; "" for none.
    """

    role: str
    kind: str
    text: str
    prompt: bool = True
    image: str = ""


@dataclass(frozen=True)
class Trained:
    """What a trainer stored.

    Attributes:
        probes: the texts, N.
        vectors: the trained model's, float32 [N, dim].
        base: of a model with an adapter, the vectors without it, float32 [N, dim].
        weights: the dtype that the artifact's weights were written in, as safetensors calls it: "F32", "BF16".
    """

    probes: Sequence[Probe]
    vectors: Vectors
    base: Vectors | None
    weights: str | None


def probe_set(renderer: Renderer) -> list[Probe]:
    """The probes for a model: each kind for both roles, with the prompt and without it."""
    queries = [
        ("short", "capital of Peru"), ("short", "how do I reset a forgotten password"),
        ("multilingual", "¿qué es la fotosíntesis?"), ("multilingual", "地震の原因"), ("code", "C++ vs. Rust?"),
        ("nearly_empty", "x"), ("long", _LONG), ("limit", _to_limit(_LONG, renderer)),
        ("truncated", _too_long(_LONG, renderer)),
    ]  # fmt: skip
    documents = [
        ("short", "Lima is the capital and the largest city of Peru. It lies on the Pacific coast."),
        ("short", "Photosynthesis turns light, water and carbon dioxide into sugar and oxygen."),
        ("multilingual", "Das Passwort lässt sich auf der Anmeldeseite zurücksetzen; eine E-Mail führt durch alles."),
        ("multilingual", "地震は、地下の岩盤がずれ動くことで起こる。"),
        ("multilingual", "Фотосинтез превращает свет, воду и углекислый газ в сахар и кислород."),
        ("code", "  Numbers such as 3.14159, 1,000,000 and 0xFF;\ttabs, \n new lines and   spaces.  "),
        ("nearly_empty", "."), ("long", _LONG), ("limit", _to_limit(_LONG, renderer)),
        ("truncated", _too_long(f"{_LONG} And so on.", renderer)),
    ]  # fmt: skip
    probes = []
    for role, pairs in (("query", queries), ("document", documents)):
        probes += [Probe(role, kind, text, prompt) for prompt in (True, False) for kind, text in pairs]
    return probes


def picture_set(renderer: Renderer, directory: Path) -> list[Probe]:
    """Probes with pictures for a model that sees them, whose files are written into an artifact's directory.

    There are none where the model's limit of length leaves no room for a picture.

    Args:
        renderer: the model's.
        directory: the artifact's.
    """
    reader = renderer.pictures
    if reader is None or "image" not in reader.kinds:
        return []
    from PIL import Image

    random, files = np.random.default_rng(0), list[str]()
    (directory / PICTURES).mkdir(exist_ok=True)
    for number, (rows, columns) in enumerate([(9, 6), (5, 11), (8, 8)]):
        shades = random.integers(0, 256, (rows, columns, 3), dtype=np.uint8)
        files.append(f"{PICTURES}/{number}.png")
        # Squares of a size that no patch has, so that what is resized is seen.
        Image.fromarray(shades.repeat(13, axis=0).repeat(13, axis=1)).save(directory / files[-1])
    words = "" if reader.apart else "capital of Peru"
    found = [Probe(role, "picture", "", prompt, file) for role in ROLES for prompt in (True, False) for file in files]
    found += [Probe(role, "picture", words, True, files[0]) for role in ROLES if words]
    try:
        lengths = [len(ids) for ids in renderer.tokenize(rendered(found, renderer, directory))]
    except DataError as error:
        logger.info("probes: none with pictures: %s", error)
        return []
    return found if max(lengths) <= renderer.max_length or reader.apart else []


def rendered(probes: Sequence[Probe], renderer: Renderer, directory: Path | None = None) -> list[str]:
    """The probes as the model is to see them; ``directory`` is that of their pictures' artifact."""
    texts = []
    for probe in probes:
        prompt, pieces = None if probe.prompt else "", list[Piece]()
        if probe.image:
            assert directory is not None
            pieces = [Media("image", str(directory / probe.image)), *([probe.text] if probe.text else [])]
        if probe.role == "query":
            texts.append(renderer.query(probe.text, prompt, pieces))
        else:
            texts.append(renderer.document(probe.text, "", prompt, pieces))
    return texts


def write_probes(
    directory: Path, probes: Sequence[Probe], vectors: Vectors, base: Vectors | None = None, weights: str | None = None
) -> None:
    """Store probes and their vectors in an artifact's directory; arguments are the fields of :class:`Trained`."""
    write_json(
        directory / PROBES_FILE,
        {
            "schema": VERSION, "probes": [_plain(probe) for probe in probes], "dim": vectors.shape[1],
            "vectors": _packed(vectors), "base": None if base is None else _packed(base),
            "weights": weights or weights_dtype(directory),
        },
    )  # fmt: skip


def _plain(probe: Probe) -> dict[str, object]:
    """Without what only pictures have, so that earlier versions read the probes of a model of text."""
    found = asdict(probe)
    return found if probe.image else {key: value for key, value in found.items() if key != "image"}


def read_probes(directory: Path) -> Trained | None:
    """What a trainer stored in an artifact's directory; None where nothing is.

    Raises:
        ArtifactError: the file cannot be read.
    """
    path = directory / PROBES_FILE
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["schema"] != VERSION:
            raise ArtifactError(f"{path}: field 'schema': found {found['schema']!r}; expected {VERSION!r}")
        probes = [Probe(**each) for each in found["probes"]]
        vectors, base = (
            None if found[key] is None else _unpacked(found[key], len(probes), found["dim"])
            for key in ("vectors", "base")
        )
    except (ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{path}: cannot be read ({error}). Export the model again") from error
    assert vectors is not None
    return Trained(probes, vectors, base, found.get("weights"))


def weights_dtype(directory: Path) -> str | None:
    """The dtypes of the weights in an artifact, e.g. "F32" or "BF16, F32"; None where they are not in safetensors."""
    kinds: set[str] = set()
    for file in directory.glob("*.safetensors"):
        with file.open("rb") as stream:
            # The format's head: its length in 8 bytes, then JSON.
            head = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
        kinds |= {tensor["dtype"] for name, tensor in head.items() if name != "__metadata__"}
    return ", ".join(sorted(kind for kind in kinds if "F" in kind)) or None


def _packed(vectors: Vectors) -> str:
    return base64.b64encode(np.ascontiguousarray(vectors, dtype="<f4").tobytes()).decode()


def _unpacked(text: str, rows: int, dim: int) -> Vectors:
    return np.frombuffer(base64.b64decode(text), dtype="<f4").reshape(rows, dim)


_LONG = (
    "An earthquake is the shaking of the ground that follows when rock deep below it breaks or slides along a fault. "
    "Most of them are too weak to be felt; a few, such as that of Lisbon in 1755, have changed the history of a city. "
    "Their strength is given on a scale in which each step stands for about thirty times as much energy."
)


def _too_long(text: str, renderer: Renderer) -> str:
    """The text over and over, until the limit cuts."""
    text = text[: 16 * renderer.max_length]
    while len(renderer.tokenize([text])[0]) < renderer.max_length:
        text = f"{text} {text}"
    return f"{text} {text}"


def _to_limit(text: str, renderer: Renderer) -> str:
    """As many of the text's words, over and over, as fit into the limit with the longer of the two prompts."""
    words = _too_long(text, renderer).split()
    prompt = max((renderer.query_prompt, renderer.document_prompt), key=len)
    low, high = 1, len(words)
    while low < high:
        middle = (low + high + 1) // 2
        fits = renderer.lengths([prompt + " ".join(words[:middle])])[0] <= renderer.max_length
        low, high = (middle, high) if fits else (low, middle - 1)
    return " ".join(words[:low])
