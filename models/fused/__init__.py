"""Triton kernels for the sMLPNet block, as operators of torch; nothing here is imported unless they are used."""
