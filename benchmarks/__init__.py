"""What our kernels cost beside PyTorch, its compiler, the libraries people use today, and the floor of the machine.

``python -m benchmarks <op>`` measures one operation family, ``python -m benchmarks table`` renders the README's tables.
"""
