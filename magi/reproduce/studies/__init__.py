"""The questions, one file each: a function from the workshop to a study."""
