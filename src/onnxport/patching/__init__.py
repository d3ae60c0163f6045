"""Replace functions of other packages while a model is traced, and put the originals back."""
