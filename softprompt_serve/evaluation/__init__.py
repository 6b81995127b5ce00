"""Evaluations, from the asking side: items in, paired scores of several versions out.

A client of the server's HTTP API and nothing more: no vLLM, no web framework, no torch.
"""
