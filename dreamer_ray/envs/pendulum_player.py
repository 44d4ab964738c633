"""A scripted player of Gymnasium's ``Pendulum-v1``: energy shaping swings the pendulum up, a linear law keeps it there.

Astrom and Furuta, "Swinging up a pendulum by energy control", 2000. Its motor is too weak to lift the pendulum at once.
"""

import numpy as np

GRAVITY_TERM = 15.0
"""3 g / (2 l): angular acceleration of a level pendulum, with the environment's own g = 10 and l = 1."""
MOST_TORQUE = 2.0
NEAR_ANGLE, NEAR_SPEED = 0.35, 2.5
"""Within these the linear law holds."""
STIFFNESS, DAMPING = 9.0, 2.2


def swing_up(observation: np.ndarray) -> np.ndarray:
    """The torque ``[1]`` for the state ``(cos, sin, speed)``, the angle being 0 upright."""
    cosine, sine, speed = np.asarray(observation, np.float64)
    angle = np.arctan2(sine, cosine)
    if abs(angle) < NEAR_ANGLE and abs(speed) < NEAR_SPEED:
        torque = -(STIFFNESS * angle + DAMPING * speed)
    else:
        missing = GRAVITY_TERM * (1 - cosine) - speed**2 / 2
        torque = missing * (1.0 if speed >= 0 else -1.0)
    return np.clip([torque], -MOST_TORQUE, MOST_TORQUE).astype(np.float32)
