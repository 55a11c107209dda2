"""Combination of the gradients of several tasks into one."""
