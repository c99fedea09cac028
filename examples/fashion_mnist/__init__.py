"""Accuracy against compression on Fashion-MNIST: what patterns, kernels, filters and single weights cost.

python -m examples.fashion_mnist --help
"""
