"""Gymnasium environments, and the scripted player that makes a data set out of one."""
