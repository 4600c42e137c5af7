"""What a collection says of the model that made its vectors. No torch: any module may import it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

# What makes two models' vectors comparable. The layer is always the same one, in whatever words.
COMPARED = ("architecture", "weights_sha256", "preprocessing", "dimension")


class ModelError(Exception):
    """A model that can't be had; the message says what to do."""


@dataclass(frozen=True)
class Model:
    """What makes the vectors: two collections with equal models hold comparable vectors.

    weights names a way to get them ('imagenet', 'random' or a file); the SHA-256 of their
    values says which they are.
    """

    weights: str
    weights_sha256: str
    architecture: str
    preprocessing: str
    dimension: str
    layer: str = "what enters the last layer, unit length"

    @property
    def words(self) -> str:
        """The model in a reader's words."""
        weights = Path(self.weights).name
        digest = f"SHA-256 of their values {self.weights_sha256[:12]}…"
        return f"{self.architecture}, weights {weights} ({digest}), {self.layer}"

    def properties(self) -> dict[str, str]:
        """Return the model as text to keep beside the vectors."""
        return asdict(self)

    def same_vectors(self, properties: Mapping[str, str]) -> bool:
        """Return whether vectors made by the model of these properties compare with ours."""
        ours = self.properties()
        return all(properties.get(key) == ours[key] for key in COMPARED)
