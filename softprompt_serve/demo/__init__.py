"""The demo: a real base model, a labelled data set, trained prompts and their evaluation."""
