"""Two squares that move on noise, and what tests say of them."""

import numpy as np

SENTENCES = ["the red circle", "the small Blue square!"]
NAMES = ["1_the_red_circle", "2_the_small_blue_square"]


def moving_squares(num_frames, seed=0, height=50, width=64):
    frames = np.random.default_rng(seed).integers(0, 90, (num_frames, height, width, 3), dtype=np.uint8)
    for index in range(num_frames):
        frames[index, 5:25, 2 * index : 2 * index + 20] += 120
        frames[index, 30:45, 40 - 2 * index : 55 - 2 * index, 1] += 150
    return frames
