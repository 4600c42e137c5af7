"""The description of a model that a collection records. Imports no torch: any module may use it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

PUBLISHED, RANDOM = "pretrained", "random"  # weights that are not a file
NAMED_WEIGHTS = (PUBLISHED, RANDOM)

# Models that agree in these have comparable vectors.
COMPARED = ("architecture", "weights_sha256", "preprocessing", "dimension")


class ModelError(Exception):
    """A model that is not available; the message says what to do."""


@dataclass(frozen=True)
class Model:
    """What determines the vectors: two collections with equal models hold comparable vectors.

    weights: where they come from ('pretrained', 'random' or a file). weights_sha256: the SHA-256 of
    their values.
    """

    weights: str
    weights_sha256: str
    architecture: str
    preprocessing: str
    dimension: str
    layer: str = "input of the last layer, scaled to unit length"

    @property
    def words(self) -> str:
        """The model, as reports describe it."""
        weights = Path(self.weights).name
        digest = f"SHA-256 of their values {self.weights_sha256[:12]}…"
        return f"{self.architecture}, weights {weights} ({digest}), {self.layer}"

    def properties(self) -> dict[str, str]:
        """Return the model as text to store beside the vectors."""
        return asdict(self)

    def same_vectors(self, properties: Mapping[str, str]) -> bool:
        """Return whether vectors made by the model of these properties are comparable with ours."""
        return all(getattr(self, key) == properties.get(key) for key in COMPARED)


def package_of(architecture: str) -> str:
    """Return the package that has a network: torchvision, unless the name says otherwise."""
    return "timm" if architecture.startswith("timm/") else "torchvision"


def named_or_path(weights: str) -> str:
    """Return weights as a collection records them: a file as its whole path."""
    return weights if weights in NAMED_WEIGHTS else str(Path(weights).resolve())
