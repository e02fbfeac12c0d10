"""The encoder and what computes it: attention, dropout, adapters, precision."""
