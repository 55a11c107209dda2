"""Linear probes of an encoder's layers, which estimate the benefit of layer fusion before training."""

from hf_layerfusion.probing.layer_probe import LayerProbe, ProbeScore, layer_probe, layer_probes
from hf_layerfusion.probing.probe_plots import plot_gains, plot_layer_probe

__all__ = ["LayerProbe", "ProbeScore", "layer_probe", "layer_probes", "plot_gains", "plot_layer_probe"]
