"""Registry of the regularizers."""

from typing import Any

from hf_layerfusion.errors import UserError, nearest
from hf_layerfusion.regularizers.bregman import Bregman
from hf_layerfusion.regularizers.freelb import FreeLB
from hf_layerfusion.regularizers.rdrop import RDrop
from hf_layerfusion.regularizers.regularizer import Regularizer
from hf_layerfusion.regularizers.smart import Smart

REGULARIZERS: dict[str, type[Regularizer]] = {
    "smart": Smart,
    "bregman": Bregman,
    "rdrop": RDrop,
    "freelb": FreeLB,
}


def make_regularizers(settings: dict[str, dict[str, Any]]) -> dict[str, Regularizer]:
    """Return the regularizers by name, each with its settings.

    Raises:
        UserError: If a name or setting is unknown, or a value is out of range.
    """
    made = {}
    for name, options in settings.items():
        if name not in REGULARIZERS:
            raise UserError(
                f"regularizers must be of {', '.join(REGULARIZERS)}, found {name!r}; {nearest(name, REGULARIZERS)}"
            )
        try:
            made[name] = REGULARIZERS[name](**options)
        except TypeError as error:
            raise UserError(f"regularizers: {name}: {error}; see the class for its settings") from error
    return made
