"""MLX through mlx-lm's BatchGenerator."""
