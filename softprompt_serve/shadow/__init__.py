"""Shadow traffic: budget, comparison of pairs, and what is counted of them. No vLLM here."""
