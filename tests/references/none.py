"""The reference of NoPE: causal attention as it is."""

from tests.references import Reference

REFERENCES = {"none": Reference("Kazemnejad et al. 2023, section 2.1: q·k/√d and the causal mask")}
