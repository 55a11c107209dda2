"""Linear probes of an encoder's layers: what fusing them would bring, before anything is trained."""

from hf_layerfusion.probing.plot import plot_gains, plot_layer_probe
from hf_layerfusion.probing.probe import LayerProbe, ProbeScore, layer_probe, layer_probes

__all__ = ["LayerProbe", "ProbeScore", "layer_probe", "layer_probes", "plot_gains", "plot_layer_probe"]
