"""``python -m dreamer_ray`` is ``dreamer-ray``."""

from dreamer_ray.cli.main import main

main()
