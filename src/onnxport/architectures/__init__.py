"""One module per architecture family, with whatever can't be derived from the models themselves."""
