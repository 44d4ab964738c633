"""From recordings to batches: shards of pictures, shards of latents, clips, and the plan of which clip is read when."""
