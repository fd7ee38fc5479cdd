"""Work that is not serving a model, one process per piece: downloads, probes, quantized copies."""
