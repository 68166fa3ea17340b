"""The paper in miniature: its questions, asked side by side on the procedural world."""
