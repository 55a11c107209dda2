"""Regularizers by name."""

from hf_layerfusion.losses.bregman import Bregman
from hf_layerfusion.losses.freelb import FreeLB
from hf_layerfusion.losses.rdrop import RDrop
from hf_layerfusion.losses.regularizer import Regularizer
from hf_layerfusion.losses.smart import Smart

REGULARIZERS: dict[str, type[Regularizer]] = {
    "smart": Smart,
    "bregman": Bregman,
    "rdrop": RDrop,
    "freelb": FreeLB,
}
