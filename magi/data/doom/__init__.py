"""ViZDoom: gameplay as videos with the action of every frame."""
