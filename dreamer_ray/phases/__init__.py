"""The four phases of Dreamer 4, independent of each other: each turns a batch into a loss."""
