"""Rollouts: the document that says how a prompt's traffic is split, and what moves it on."""
