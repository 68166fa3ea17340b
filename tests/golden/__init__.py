"""Files that earlier versions wrote, which later ones have to read."""
