"""Backends of the one graph operator: plain PyTorch, C++ for processors, Triton for NVIDIA GPUs.

Each module has a `forward` and a `backward` with the same arguments; `atgnn.graph.operator`
chooses among them.
"""
