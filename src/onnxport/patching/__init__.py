"""Replace functions of other packages while a model is traced, and restore the originals afterwards."""
